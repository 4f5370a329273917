"""Training runs with sample selection: models, data, configurations and their results."""
