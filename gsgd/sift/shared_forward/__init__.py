"""One forward pass that serves scoring and training; private to `gsgd.sift`."""
