"""At which steps selection happens, and which share of the rows it keeps there."""
