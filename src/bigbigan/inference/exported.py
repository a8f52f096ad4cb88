"""Name the files of an exported model, and the version of their form."""

__all__ = ["EXPORTED", "HEAD", "SCHEMA", "WEIGHTS"]

EXPORTED = "model.json"  # marks an exported folder
WEIGHTS = "model.safetensors"
HEAD = "head.safetensors"  # the saved classifier, if it has one
SCHEMA = 1  # of model.json
