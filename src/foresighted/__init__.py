"""Foresighted Policy Optimization for iterative RLHF (arXiv 2605.04266).

Importing this package loads neither torch nor jax.
"""

from foresighted.errors import ForesightedError
from foresighted.settings import CompareConfig, TrainConfig

__version__ = "0.1.0"
__all__ = ["CompareConfig", "ForesightedError", "TrainConfig", "__version__"]
