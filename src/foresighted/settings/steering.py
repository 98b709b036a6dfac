"""What steers, and over which parameters of the reward model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

from foresighted.errors import ConfigError
from foresighted.settings.fields import Settings, setting
from foresighted.steering.table import FORMS, READ_LABELS, Form

SCOPE = re.compile(r"(?P<kind>head|last(?=:)|lora(?!:)|all(?!:))(?::(?P<count>[1-9]\d*))?")
"""How a scope is written: head, head:K, last:K, lora or all."""

_DEFAULTS = ", ".join(f"{form.name} {form.gamma:g} {form.gamma_unit}" for form in FORMS.values() if form.gamma)
_SUMMARIES = "; ".join(f"{form.name} ({form.summary})" for form in FORMS.values())
_UNITS = " or ".join(
    f"{unit} ({', '.join(form.name for form in FORMS.values() if form.gamma and form.unit == unit)})"
    for unit in dict.fromkeys(form.unit for form in FORMS.values() if form.gamma)
)


class Fit(NamedTuple):
    """How the reward model learns at an update."""

    steps: int | Literal["auto"]
    buffer: int
    """Earlier pairs, -1 for all."""
    l2: float


_OF_A_HEAD = Fit("auto", -1, 0.01)
"""Its inputs are computed once a pair, so that it can be fitted to all of them at each update."""
_OF_MORE = Fit(1, 0, 0.0)


@dataclass(frozen=True)
class SteeringConfig(Settings):
    """What steers, and over which parameters of the reward model: the part that every loop's configuration shares."""

    reward_model_train: Literal["head", "lora", "all"] = setting("head", "reward model", "what is trained of it")
    reward_model_max_length: int | None = setting(
        None,
        "reward model",
        "most tokens it reads of a text, of which the prompt loses its beginning (default: what model and tokenizer"
        " take)",
        low=2,
    )
    reward_model_steps: int | Literal["auto"] | None = setting(
        None,
        "reward model",
        "optimiser steps an update, each over all pairs that it learns from; auto: until its loss on a held-back tenth"
        " of them stops falling (default: auto for a head, whose inputs are known; else 1)",
        low=1,
    )
    reward_model_buffer: int | None = setting(
        None,
        "reward model",
        "earlier pairs that it goes on learning from beside the new ones, the newest first; 0: none, -1: all (default:"
        " all for a head, else none)",
        low=-1,
    )
    reward_model_l2: float | None = setting(
        None,
        "reward model",
        "weight of half the squared distance of its parameters from the loaded ones (default: .01 for a head, else 0)",
        low=0,
    )
    sampled_labels: bool = setting(False, "labels", "turn each preference p into one bit: 1 with probability p")

    steering: str = setting("practical", "steering", f"form of the penalty: {_SUMMARIES}", choices=FORMS)
    gamma: float | None = setting(
        None,
        "steering",
        f"steering weight, in gamma_unit; raw, it is in units of {_UNITS} (default: the form's, {_DEFAULTS})",
        low=0,
    )
    gamma_unit: Literal["raw", "share"] | None = setting(
        None,
        "steering",
        "raw, or a share of the spread of rewards within a prompt: practical at gamma 1 takes as much (default: the"
        " form's)",
    )
    scope: str = setting(
        "head",
        "steering",
        "parameters whose influence is counted: head, head:K (from the K-th last linear layer on), last:K (blocks),"
        " lora or all",
    )
    influence: Literal["self", "batch"] = setting(
        "self", "steering", "whose reward a candidate is charged for: its own (the paper), or the round's mean"
    )
    paid: Literal["reward", "margin"] = setting(
        "reward", "steering", "what is asked about there: the reward (the paper), or its margin over the reference's"
    )
    steering_labels: Literal["candidate", "group", "baseline"] = setting(
        "candidate",
        "steering",
        f"what {READ_LABELS} read: each candidate's label (N a prompt), or in place of it the label of the prompt's one"
        " labelled candidate, carried over by the margins (one; not in TRL), or the mean label that the reward model"
        " was trained on so far (none)",
    )
    curvature: Literal["gauss-newton", "hessian", "adamw"] = setting(
        "gauss-newton",
        "steering",
        "of exact: Gauss-Newton matrix (the Hessian for scope head; closed form), full Hessian (conjugate gradients),"
        " or the diagonal that AdamW divides by",
    )
    damping: float = setting(0.1, "steering", "of exact: added to the eigenvalues of the curvature", above=0)
    unrolled_steps: int = setting(5, "steering", "of unrolled: AdamW steps that are differentiated through", low=1)
    influence_chunk: int | None = setting(
        None,
        "steering",
        "most responses in a pass of the reward model for a scope beyond head; bounds memory (default: about 64 on a"
        " CPU, as many as free memory allows on a GPU)",
        low=2,
    )

    def _rules(self) -> Iterable[tuple[bool, str]]:
        return (
            (
                SCOPE.fullmatch(self.scope) is not None,
                f"scope: got {self.scope!r}, expected head, head:K, last:K, lora or all",
            ),
            (
                self.scope != "lora" or self.reward_model_train == "lora",
                f"scope: lora selects no parameters with reward_model_train {self.reward_model_train}; use"
                " --reward-model-train lora, or another scope",
            ),
        )

    @property
    def form(self) -> Form:
        """The form of the penalty, with all that is known of it."""
        return FORMS[self.steering]

    @property
    def weight(self) -> float:
        """The steering weight: `gamma`, or the form's own where none is given."""
        return self.form.gamma if self.gamma is None else self.gamma

    @property
    def unit(self) -> Literal["raw", "share"]:
        """What the weight is in units of: `gamma_unit`, or the form's own where none is given."""
        return self.gamma_unit or self.form.gamma_unit

    @property
    def fit(self) -> Fit:
        """How the reward model learns: as given, else by what is trained of it."""
        usual = _OF_A_HEAD if self.reward_model_train == "head" else _OF_MORE
        return Fit(
            usual.steps if self.reward_model_steps is None else self.reward_model_steps,
            usual.buffer if self.reward_model_buffer is None else self.reward_model_buffer,
            usual.l2 if self.reward_model_l2 is None else self.reward_model_l2,
        )

    def resolved(self) -> Self:
        """Return the same settings with those written out that depend on others, as records keep them.

        Raises:
            ConfigError: another unit of gamma than the form's own, and no gamma.
        """
        form = self.form
        if form.gamma and self.gamma is None and self.unit != form.gamma_unit:
            raise ConfigError(
                f"gamma_unit: got {self.unit}, and {form.name} has {form.gamma:g} {form.gamma_unit} where no gamma is"
                " given; give gamma, too"
            )
        steps, buffer, l2 = self.fit
        learning = {"reward_model_steps": steps, "reward_model_buffer": buffer, "reward_model_l2": l2}
        return replace(self, gamma=self.weight, gamma_unit=self.unit, **learning)  # type: ignore[arg-type]

    @property
    def carries_label(self) -> bool:
        """Whether the penalty of a candidate reads one label of its prompt, which may be another's."""
        return self.form.reads_labels and self.weight > 0 and self.steering_labels == "group"

    @property
    def reads_labels(self) -> bool:
        """Whether the penalty of a candidate reads that candidate's own label."""
        return self.form.reads_labels and self.weight > 0 and self.steering_labels == "candidate"
