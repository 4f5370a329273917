"""Training runs with sample selection: models, data, configurations and their results."""

import gsgd as gsgd  # it knows the old names of what has moved
