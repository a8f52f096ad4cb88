"""Train: the loop, the state, checkpoints, the run folder, devices, logs."""
