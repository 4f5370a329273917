"""What the engine has to know of a model: its wrappers, what it takes, its BatchNorm, and torch beneath it."""
