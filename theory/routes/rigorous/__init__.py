"""The interval route: proofs over whole ranges by ball arithmetic (extra `rigorous`, python-flint).

A ball holds every real number that its inputs could have meant, rounding included. So a comparison of balls is true
only if it is certain, and its negation proves nothing: where neither `value <= bound` nor `value > bound` is certain,
the answer is "undecided", and a box is divided further.

    balls       numbers, and comparisons with three answers
    boxes       subdivision of a range until each part is decided
    enclosures  the quantities of the paper as balls
"""

from theory.routes.rigorous.balls import all_of, at_most, ball, equal, ingredient, precision
from theory.routes.rigorous.boxes import MAX_BOXES, Box, Subdivision, box, subdivide, verdict

__all__ = [
    "MAX_BOXES",
    "Box",
    "Subdivision",
    "all_of",
    "at_most",
    "ball",
    "box",
    "equal",
    "ingredient",
    "precision",
    "subdivide",
    "verdict",
]
