"""The formulas of the statements, a module a subject; none of them knows a problem or a check."""
