"""`gsgd compare`: several methods, several seeds, one budget."""
