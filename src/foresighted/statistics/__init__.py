"""Intervals, and what is told by them: NumPy alone."""
