"""Tar shards: writing, reading, and fetching remote ones."""
