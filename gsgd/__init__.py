"""Greedy SGD with approximate losses: selection rules, scores, the oracle of Definition 4.1, and simulation."""

from gsgd import renamed

__version__ = "0.2.0"

renamed.install()
