"""Every statement of the paper as a formula, and checks of each by independent routes."""

import gsgd as gsgd  # it knows the old names of what has moved
