"""What of a batch are rows, taken in whatever structure it has."""
