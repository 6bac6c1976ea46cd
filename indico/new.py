from indico.core.commands.new.__main__ import main

if __name__ == "__main__":
    main()
