"""The loss of preferences, and gradient products of a linear head, read off its features without a backward pass.

For r = w . f + b the gradient over (w, b) is g = [f, 1], so with a reference of features f'

    S = <g, g - g'> = f . (f - f'),      G = |g - g'|^2 = |f - f'|^2

(the bias cancels: its gradient is 1 for every response).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from foresighted.errors import DataError
from foresighted.steering import Products


def bradley_terry(margin: Tensor, label: Tensor, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Return the Bradley-Terry loss -p log s(m) - (1 - p) log s(-m), m = r(first) - r(second).

    Args:
        margin: m, any shape.
        label: p in [0, 1] that the first is preferred, of the same shape: soft, or hard bits.
        reduction: `mean` of all, or `none`: each.
    """
    return functional.binary_cross_entropy_with_logits(margin, label.to(margin), reduction=reduction)


def head_products(features: Tensor, reference: Tensor) -> Products:
    """Return S and G of every candidate for a linear head.

    Args:
        features: inputs of the head for the candidates, shape B N D.
        reference: inputs of the head for what a candidate is compared with: each prompt's reference response, shape
            B D, or each candidate's own, shape B N D (`leave_one_out`).

    Returns:
        `Products` of shape B N.

    Raises:
        DataError: shapes that do not match.

    Example:
        >>> import torch
        >>> head_products(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[1.0, 0.0]]))
        Products(gram=tensor([[4.]]), spread=tensor([[4.]]))

    References:
        arXiv 2605.04266, language-model experiment (only the classification head is trained).
    """
    if features.ndim != 3 or reference.shape not in (features.shape, (features.shape[0], features.shape[2])):
        raise DataError(
            f"head_products: features {tuple(features.shape)} and reference {tuple(reference.shape)} do not match;"
            " expected (B, N, D) and (B, D), or (B, N, D) twice"
        )
    difference = features - (reference[:, None, :] if reference.ndim == 2 else reference)
    return Products((features * difference).sum(-1), difference.square().sum(-1))


def leave_one_out(features: Tensor) -> Tensor:
    """Return the mean over each prompt's other candidates, shape B N D like `features`.

    Raises:
        DataError: one candidate a prompt.
    """
    if features.ndim != 3 or features.shape[1] < 2:
        raise DataError(f"leave_one_out: features {tuple(features.shape)}; expected (B, N, D) with N at least 2")
    return (features.sum(1, keepdim=True) - features) / (features.shape[1] - 1)
