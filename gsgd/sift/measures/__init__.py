"""What is measured of scores and steps, without a trace on the training: agreement, checks, directions, accuracy."""
