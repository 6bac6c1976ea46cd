from indico.core.commands.shell import main

if __name__ == "__main__":
    main()
