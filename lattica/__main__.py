"""`python -m lattica` is `lattica`."""

from lattica.cli import main

if __name__ == "__main__":
    main()
