"""``python -m ditto``: the command line."""

from ditto.cli.process import run

run()
