from indico.core.commands.worker import main

if __name__ == "__main__":
    main()
