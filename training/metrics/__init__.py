"""How a classifier is judged beyond loss and accuracy: average precision, and calibration."""
