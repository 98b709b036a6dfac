"""From a torch reward model to the gradient products that steering reads."""

from foresighted.influence.head import Products, head_products

__all__ = ["Products", "head_products"]
