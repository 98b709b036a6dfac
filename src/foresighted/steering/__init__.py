"""The mathematics of the penalty: pure functions of numbers and Gram matrices, no model code."""

from foresighted.steering.forms import implicit_margin, practical, proximal, relaxed, sigmoid

__all__ = ["implicit_margin", "practical", "proximal", "relaxed", "sigmoid"]
