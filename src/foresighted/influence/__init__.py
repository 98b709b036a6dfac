"""From a torch reward model to the gradient products that steering reads."""

from foresighted.influence.curvature import Parameters
from foresighted.influence.head import bradley_terry, head_products
from foresighted.influence.naive import Forward, Inputs, naive_gradients
from foresighted.influence.products import GradientProducts, Scored
from foresighted.influence.scopes import find_head, select

__all__ = [
    "Forward",
    "GradientProducts",
    "Inputs",
    "Parameters",
    "Scored",
    "bradley_terry",
    "find_head",
    "head_products",
    "naive_gradients",
    "select",
]
