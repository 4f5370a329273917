"""Every statement of the paper as a formula, and checks of each by independent routes."""
