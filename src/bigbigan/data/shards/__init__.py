"""Write, read and fetch tar shards."""
