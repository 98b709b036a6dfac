"""Intervals, profiles of means, tests, ratings and the one definition of collapse: NumPy and SciPy alone."""
