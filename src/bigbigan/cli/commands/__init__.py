"""Define the commands, one module for each with `EXAMPLES`, `add_arguments` and `run`.

They import what they need when they run, so that `--help` is fast.
"""
