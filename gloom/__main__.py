"""``python -m gloom``, where the command ``gloom`` is not on the path."""

from gloom.cli.entry import main

if __name__ == "__main__":
    main()
