"""`python -m promptjobs` is the command `promptjobs`."""

from promptjobs.cli import main

if __name__ == "__main__":
    main()
