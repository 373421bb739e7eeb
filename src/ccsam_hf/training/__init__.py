"""Training: run config -> data, model, loop -> checkpoints; `loop.train` is the whole of it."""
