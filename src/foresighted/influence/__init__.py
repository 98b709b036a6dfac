"""From a torch reward model to the gradient products that steering reads."""

from foresighted.influence.head import head_products
from foresighted.influence.naive import naive_gradients
from foresighted.influence.products import GradientProducts, Scored
from foresighted.influence.scopes import check_scope, find_head, select
from foresighted.steering import Products

__all__ = [
    "GradientProducts",
    "Products",
    "Scored",
    "check_scope",
    "find_head",
    "head_products",
    "naive_gradients",
    "select",
]
