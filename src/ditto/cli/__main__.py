"""``python -m ditto.cli``: the command, for launchers that start modules."""

from ditto.cli.process import run

if __name__ == "__main__":
    run()
