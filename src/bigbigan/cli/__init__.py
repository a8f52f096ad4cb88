"""Provide the command line: `bigbigan COMMAND ...`."""

from bigbigan.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
