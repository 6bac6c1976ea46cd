from indico.core.commands.migrate import main

if __name__ == "__main__":
    main()
