"""The training loop and what it keeps: state, checkpoints, run folder, devices, logs."""
