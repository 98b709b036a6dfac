"""The table of forms: one row each. Settings, the loop, TRL and the games read what a form is from its row.

What a penalty needs of the reward model comes as one number a candidate, its *base*, made by whoever has the model;
`needs` says what that number is. The row's functions turn it into the penalty. So a new form is a function and a row.
Loads no array library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from array_api_compat import array_namespace

from foresighted.steering import pairwise, pointwise
from foresighted.steering.checks import Array

Needs = Literal["nothing", "products", "curvature", "steps"]
"""The base: not read; S = <t, d>; <t, (H + damping I)^-1 d>, with the inverse curvature of the reward model's loss;
-d r(t; phi_K) / d w, the derivative through K steps of the reward model, labels and all."""


class Penalty(Protocol):
    """A form as a pure function of arrays of one shape (NumPy, JAX or torch), one entry a candidate."""

    def __call__(self, base: Array, spread: Array, value: Array, label: Array, /, *, gamma: float | Array) -> Array:
        """Return the penalty, in units of reward.

        Args:
            base: what the form needs, see `Needs`.
            spread: G = |d|^2.
            value: margin r(y) - r(y') (pairwise), or reward r(y) (pointwise).
            label: p* or U(y), or a baseline for it. Not read where the row says `reads_labels=False`.
            gamma: steering weight.
        """


@dataclass(frozen=True)
class Form:
    """A row of the table: all that a loop must know of a form of the penalty."""

    name: str
    summary: str
    """In help and documentation, after the name."""
    needs: Needs
    reads_labels: bool
    """Whether it reads each candidate's label, or a baseline in its place."""
    gamma: float
    """Default weight in a loop on language models, in units of `gamma_unit`. Practical: 1, penalties that differ within
    a prompt as much as rewards do. Relaxed: .3, small enough that an explicit step does not overshoot at the products
    of the embedded reward model (G of 10 and more, slope at most a quarter). Proximal: 1, since its step never
    overshoots, and it was best at 5 to 10 times practical's weight in the network game. Exact and unrolled: 1, the
    derivative itself."""
    gamma_unit: Literal["raw", "share"]
    """Unit of that default, and of a gamma that is given without one."""
    unit: str
    """What gamma is in units of."""
    pairwise: Penalty
    """For a Bradley-Terry reward model."""
    pointwise: Penalty
    """For one fitted to utilities by squared error."""

    @property
    def elementwise(self) -> bool:
        """Whether S and G of a candidate are all that is read of the reward model's gradients."""
        return self.needs in ("nothing", "products")

    def residual(self, *, pairwise: bool) -> Literal["one", "probability", "reward"]:
        """What stands beside gamma and the base in the penalty: 1, or how far the reward model is from the label."""
        if not self.reads_labels or self.needs == "steps":
            return "one"
        return "probability" if pairwise else "reward"


def _none(base: Array, spread: Array, value: Array, label: Array, *, gamma: float | Array) -> Array:
    return array_namespace(base).zeros_like(base)


def _plain(base: Array, spread: Array, value: Array, label: Array, *, gamma: float | Array) -> Array:
    return pairwise.practical(base, gamma=gamma)


def _relaxed_pairwise(base: Array, spread: Array, value: Array, label: Array, *, gamma: float | Array) -> Array:
    return pairwise.relaxed(base, value, label, gamma=gamma)


def _relaxed_pointwise(base: Array, spread: Array, value: Array, label: Array, *, gamma: float | Array) -> Array:
    return pointwise.relaxed(base, value, label, gamma=gamma)


_STEP = "the reward model's step size"
_WHOLE = "the whole term"

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("rlhf", "no penalty, standard RLHF", "nothing", False, 0.0, "raw", "nothing", _none, _none),
        Form(
            "practical", "gamma S, without labels of candidates", "products", False, 1.0, "share", _STEP, _plain, _plain
        ),
        Form(
            "relaxed", "one explicit step of the reward model towards the label", "products", True, 0.3, "raw", _STEP,
            _relaxed_pairwise, _relaxed_pointwise,
        ),
        Form(
            "exact", "the paper's own term, with the inverse Hessian of the reward model's loss", "curvature", True,
            1.0, "raw", _WHOLE, _relaxed_pairwise, _relaxed_pointwise,
        ),
        Form(
            "unrolled", "the derivative through real steps of the reward model", "steps", True, 1.0, "raw",
            _WHOLE, _plain, _plain,
        ),
        Form(
            "proximal", "one implicit step of the reward model, which never passes the label", "products", True,
            1.0, "raw", _STEP, pairwise.proximal, pointwise.proximal,
        ),
    )
}  # fmt: skip  # a row stays a row
"""All forms by name, in the order of help and documentation."""

READ_LABELS = ", ".join(form.name for form in FORMS.values() if form.reads_labels)
"""Names of the forms that read labels, for help texts."""
