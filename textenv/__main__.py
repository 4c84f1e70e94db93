"""`python -m textenv`: the command line."""

from textenv.cli import main

if __name__ == "__main__":
    main()
