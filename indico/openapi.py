from indico.core.commands.openapi import main

if __name__ == "__main__":
    main()
