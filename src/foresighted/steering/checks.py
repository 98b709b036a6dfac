"""What every form asks of its numbers, and the sentences for what it got instead.

Shapes are always checked. Values are checked where they are known: under jax.jit or torch.func.vmap they are not.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from foresighted.errors import ConfigError, DataError, NumericalError

Array = Any
"""A NumPy, JAX or torch array."""


def holds(condition: Array) -> bool:
    """Return whether a condition holds everywhere; True where that cannot be known yet (a traced array)."""
    try:
        return bool(condition if isinstance(condition, bool) else array_namespace(condition).all(condition))
    except (TypeError, RuntimeError):  # what JAX and torch raise when a traced value is asked for its truth
        return True


def check_weight(name: str, value: Any, *, above: float | None = None) -> None:
    """Raise `ConfigError` where a number such as gamma is negative, or not above `above`, or not finite."""
    low, word = (0.0, "at least 0") if above is None else (above, f"above {above:g}")
    right = (value >= low) & (value < float("inf")) & ((value > low) | (above is None))
    if not holds(right):
        raise ConfigError(f"{name}: got {_first_wrong(value, right)}, must be {word} and finite")


def check_finite(**arrays: Array) -> None:
    """Raise `NumericalError` where an array holds NaN or infinity; it names the array and the first index."""
    for name, value in arrays.items():
        xp = array_namespace(value)
        finite = xp.isfinite(value)
        if not holds(finite):
            bad = xp.nonzero(xp.reshape(~finite, (-1,)))[0]
            raise NumericalError(
                f"{name}: entry {int(bad[0])} (flat) of shape {tuple(value.shape)} is not finite, and {bad.shape[0]} in"
                " all; check the reward model's outputs and learning rate"
            )


def check_same_shape(**arrays: Array) -> None:
    """Raise `DataError` where arrays have not one shape; a Python number or an array without axes goes with any."""
    shapes = {name: tuple(value.shape) for name, value in arrays.items() if getattr(value, "ndim", 0)}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"got {got}; expected one shape, for example (prompts, candidates)")


def check_rank(name: str, value: Array, axes: tuple[str, ...]) -> None:
    """Raise `DataError` where an array has not as many axes as are named."""
    if value.ndim != len(axes):
        expected = ", ".join(axes) + ("," if len(axes) == 1 else "")
        raise DataError(f"{name}: got shape {tuple(value.shape)}, expected ({expected})")


def check_label(label: Array | float) -> None:
    """Raise `DataError` where a label lies outside [0, 1]."""
    right = (label >= 0) & (label <= 1)
    if not holds(right):
        raise DataError(f"label: got {_first_wrong(label, right)}; a preference p* lies in [0, 1]")


def check_loss_weights(weights: Array) -> None:
    """Raise `DataError` where a loss term's weight is negative or not finite."""
    right = (weights >= 0) & (weights < float("inf"))
    if not holds(right):
        raise DataError(f"weights: got {_first_wrong(weights, right)}; a term's weight is at least 0 and finite")


def _first_wrong(value: Any, right: Any) -> str:
    """Return the first wrong entry and where it stands."""
    if not getattr(right, "ndim", 0):
        return str(value)
    xp = array_namespace(right)
    bad = xp.nonzero(xp.reshape(~right, (-1,)))[0]
    entries = xp.reshape(xp.broadcast_to(xp.asarray(value), right.shape), (-1,))
    return f"{float(entries[int(bad[0])]):g} at entry {int(bad[0])} (flat), {bad.shape[0]} wrong in all"
