"""`gsgd bench step`: what selection adds to a training step, on one machine, beside its arithmetic."""
