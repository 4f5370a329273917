"""The commands of `gsgd` alone, `reproduce` and `bench simulate`, and what all share: arguments, console, terminal."""
