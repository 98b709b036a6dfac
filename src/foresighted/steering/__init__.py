"""The mathematics of the penalty: pure functions of numbers and Gram matrices, no model code.

`pairwise` (Bradley-Terry) and `pointwise` (squared error) hold the forms, those of `pairwise` stand here too; `kernels`
turns a Gram matrix of reward-model gradients into what they read; `raw_gamma` turns a share of the reward's spread
into gamma.
"""

from foresighted.steering import pairwise, pointwise
from foresighted.steering.forms import inverse_products, practical
from foresighted.steering.kernels import (
    Influence,
    Kernels,
    Paid,
    Products,
    Reference,
    compared,
    kernels,
    raw_gamma,
    spread_and_size,
)
from foresighted.steering.pairwise import exact, proximal, relaxed, unrolled
from foresighted.steering.table import FORMS, Form

__all__ = [
    "FORMS",
    "Form",
    "Influence",
    "Kernels",
    "Paid",
    "Products",
    "Reference",
    "compared",
    "exact",
    "inverse_products",
    "kernels",
    "pairwise",
    "pointwise",
    "practical",
    "proximal",
    "raw_gamma",
    "relaxed",
    "spread_and_size",
    "unrolled",
]
