"""The loss of preferences in torch: what the reward model learns from, and whose curvature and steps are taken."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional


def bradley_terry(margin: Tensor, label: Tensor, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Return the Bradley-Terry loss -p log s(m) - (1 - p) log s(-m), m = r(first) - r(second).

    Args:
        margin: m, any shape.
        label: p in [0, 1] that the first is preferred, of the same shape: soft, or hard bits.
        reduction: `mean` of all, or `none`: each.
    """
    return functional.binary_cross_entropy_with_logits(margin, label.to(margin), reduction=reduction)
