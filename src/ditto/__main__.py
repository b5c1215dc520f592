"""``python -m ditto``: the command line."""

from ditto.cli import main

main()
