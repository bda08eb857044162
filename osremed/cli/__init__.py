"""The command line: a table of verbs, no logic."""

from osremed.cli.main import main

__all__ = ["main"]
