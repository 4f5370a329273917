"""Ways to check a claim: exact enumeration, balls, worst cases by semidefinite programs, and Monte Carlo tests."""
