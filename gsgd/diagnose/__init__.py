"""`gsgd diagnose`: whether selection can help, measured by `training`, held against the formulas by `theory`.

Nothing of the rooms is imported here; the command line asks for them when it is called.
"""
