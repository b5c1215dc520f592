"""``python -m ditto.cli``: the command, for launchers that start modules."""

from ditto.cli import main

if __name__ == "__main__":
    main()
