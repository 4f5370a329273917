"""Classification of rows of numbers, where the class that matters may be rare."""
