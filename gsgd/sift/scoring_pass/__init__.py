"""One scoring pass: what is run of a model, in which mode, how its labels are read, and that nothing of it is left."""
