"""`gsgd diagnose`: whether selection can help a model, at which exit, and what the theorems say of it."""
