from indico.core.commands.mend import main

if __name__ == "__main__":
    main()
