"""`gsgd reproduce`: the other commands in order, resumed where they were interrupted.

Nothing of the rooms is imported here: a stage is a `gsgd` command line, and what it left behind is a file.
"""
