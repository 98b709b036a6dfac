"""Foresighted Policy Optimization for iterative RLHF (arXiv 2605.04266).

Importing this package loads neither torch nor jax.
"""

from foresighted.config import CompareConfig, TrainConfig
from foresighted.errors import ForesightedError

__version__ = "0.1.0"
__all__ = ["CompareConfig", "ForesightedError", "TrainConfig", "__version__"]
