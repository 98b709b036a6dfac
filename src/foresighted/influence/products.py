"""Rewards and gradient products of any torch reward model, for the cost of about one batched forward and backward."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foresighted.errors import ConfigError, DataError, ModelError, NumericalError, one_line
from foresighted.influence.capture import Capture, NotByRow, frozen_except
from foresighted.influence.deberta import row_by_row
from foresighted.influence.layers import BLOCK, Dense, Form, at_least_single, squared_norm
from foresighted.influence.naive import Forward, Inputs, classifier
from foresighted.influence.passes import Fit, Rows, count_rows, groups, pairs_of_blocks, placed, placed_square, take
from foresighted.influence.rounding import rounded_as
from foresighted.influence.scopes import select
from foresighted.influence.sums import Read, Sums, grams, stars
from foresighted.steering import Products

_log = logging.getLogger(__name__)
_TOLERANCE = {
    torch.float64: (1e-7, 1e-12), torch.float32: (5e-3, 1e-5), torch.bfloat16: (0.1, 1e-2), torch.float16: (0.1, 1e-2),
}  # fmt: skip
"""Error above which a captured gradient is not the one that autograd gives: shares of its own size and of the whole
gradient's (some gradients, as that of an attention key's bias, are nothing but rounding)."""

_CHECKS = 3
"""Most calls that check the layers: one, but for gradients of exactly 0 (a head that starts at 0 has no others)."""

Found = tuple[Rows, Tensor, list[Tensor]]
"""Rows of a pass, their rewards, and those sums."""
Metric = Mapping[str, Tensor]


class Scored(NamedTuple):
    """What a reward model says of B prompts with N candidates and one reference response each."""

    reward: Tensor
    """Shape B N."""
    reference_reward: Tensor
    """Shape B."""
    products: Products
    """S and G against the reference, shape B N each."""


class GradientProducts:
    """Inner products of per-sample reward gradients, which are never written out where that costs more.

    The first call (and up to two more while a gradient is 0) checks each layer on two rows of its input against
    autograd. What fails (a layer of another type, a weight used outside its layer, rows that meet) is computed by one
    backward pass a row instead, which is always right, and said once in a warning.

    Args:
        model: the reward model. Dropout is off and gradients of weights are left alone while it is read.
        scope: whose parameters, as `influence.select` takes it.
        forward: inputs to rewards of shape R, differentiable; default: the one logit of a sequence classifier.
        chunk: most rows in one pass; bounds memory, and changes results in the last bits only. None: found: about 64
            on a CPU, else as many as free memory allows, in passes of about one size.

    Raises:
        ConfigError: a scope that does not exist or selects no parameters, a chunk below 2.
        ModelError: a model without head, or quantised weights in the scope.
    """

    def __init__(
        self, model: nn.Module, *, scope: str = "head", forward: Forward | None = None, chunk: int | None = None
    ) -> None:
        if chunk is not None and chunk < 2:
            raise ConfigError(f"chunk: got {chunk}, must be at least 2 (a candidate and its reference)")
        self.model = model
        self.scope = scope
        self.chunk = chunk
        self.parameters = select(model, scope)
        self._forward = forward or classifier(model)
        self._slow: dict[str, nn.Parameter] = {}
        self._by_row = True
        self._copy = False
        self._checks_left = _CHECKS
        self._fit = Fit()
        self._capture = self._captured(set())

    @property
    def slow(self) -> set[str]:
        """Names of the parameters that take one backward pass a row, known after the first call."""
        return set(self._slow)

    def against_reference(self, inputs: Inputs, *, prompts: int, metric: Metric | None = None) -> Scored:
        """Return rewards, S and G of each candidate against its prompt's reference response.

        Args:
            inputs: keyword arguments of the model, R = B (N + 1) rows each: a prompt's N candidates, then its
                reference.
            prompts: B.
            metric: as in `gram`.

        Raises:
            DataError: rows that are no multiple of `prompts`, or no candidate.
            NumericalError: a reward or product that is not finite.
        """
        rows = count_rows(inputs)
        per = rows // prompts if prompts >= 1 else 0
        if per < 2 or per * prompts != rows:
            raise DataError(
                f"inputs: got {rows} rows for {prompts} prompts; expected N candidates and a reference each"
            )

        def cut(most: int, even: bool) -> Iterable[tuple[Rows, Read]]:
            for own, count in groups(prompts, per, most, even=even):
                yield own, partial(stars, count)

        found = self._passes(inputs, cut, metric)
        reward = placed([(own, said) for own, said, _ in found], rows).view(prompts, per)
        norms, cross = (placed([(own, s[i].flatten()) for own, _, s in found], rows).view(prompts, per) for i in (0, 1))
        spread = (norms - 2 * cross + norms[:, -1:]).clamp(min=0)
        gram, spread = (column.to(reward.dtype) for column in (norms - cross, spread))
        _check_finite(reward, gram, spread)
        return Scored(reward[:, :-1], reward[:, -1], Products(gram[:, :-1], spread[:, :-1]))

    def gram(self, inputs: Inputs, *, metric: Metric | None = None) -> tuple[Tensor, Tensor]:
        """Return rewards and all inner products of their gradients.

        With more rows than a chunk, passes are made over pairs of half chunks: their number grows with the square.

        Args:
            inputs: keyword arguments of the model, R rows each.
            metric: weight of each parameter's entries in the inner product, by name and of the parameter's shape; a
                diagonal inverse curvature, say. Default 1. Linear layers then cost a written-out gradient a row.

        Returns:
            Rewards of shape R, and the Gram matrix of shape R R.

        Raises:
            NumericalError: a reward or product that is not finite.
        """
        rows = count_rows(inputs)

        def cut(most: int, even: bool) -> Iterable[tuple[Rows, Read]]:
            return ((own, grams) for own in pairs_of_blocks(rows, most, even=even))

        found = self._passes(inputs, cut, metric)
        reward = placed([(own, said) for own, said, _ in found], rows)
        gram = placed_square([(own, sums[0]) for own, _, sums in found], rows).to(reward.dtype)
        _check_finite(reward, gram)
        return reward, gram

    def _passes(
        self, inputs: Inputs, cut: Callable[[int, bool], Iterable[tuple[Rows, Read]]], metric: Metric | None
    ) -> list[Found]:
        """Make the passes that `cut` makes of the most rows of one; what was found to fit and does not is halved."""
        if self._checks_left:
            self._check(inputs)
        while True:
            most = self.chunk or self._fit.rows(inputs)
            try:
                parts = cut(most, self.chunk is None)
                return [(own, *self._run(take(inputs, own), read, metric)) for own, read in parts]
            except torch.OutOfMemoryError:
                if self.chunk is not None or most <= 2:
                    raise
            self._fit.halve(min(most, count_rows(inputs)))
            _log.warning("influence: out of memory, passes of fewer rows from now on")

    def _run(self, inputs: Inputs, read: Read, metric: Metric | None) -> tuple[Tensor, list[Tensor]]:
        """Make one pass over some rows; return their rewards and the sums over layers of what `read` reads of them."""
        while True:
            try:
                return self._pass(inputs, read, metric)
            except NotByRow as error:
                names = error.names
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, IndexError):  # what the check did not meet
                names = set(self._capture.wanted)
                if not names:
                    raise
            self._give_up(names)

    def _pass(self, inputs: Inputs, read: Read, metric: Metric | None) -> tuple[Tensor, list[Tensor]]:
        sums = Sums(read, wait=0 if read is grams else self._wait(inputs))

        def add(name: str, form: Form) -> None:
            sums.add(form if metric is None else form.scaled(metric[name].sqrt()), written=name in self._slow)

        rows, capture = count_rows(inputs), self._capture
        slow = list(self._slow.values())
        with frozen_except(self.model, self._slow), self._patched(), capture.taps(rows, add) as root:
            rewards = self._rewards(inputs)
            if slow:
                capture.listening = False
                try:
                    written = [_one_row(rewards[row], slow) for row in range(rows)]
                finally:
                    capture.listening = True
                for name, gradients in zip(self._slow, zip(*written, strict=True), strict=True):
                    add(name, Dense(torch.stack(gradients)))
            if capture.wanted:
                torch.autograd.grad(rewards.sum(), root, allow_unused=True)
        found = sums.all()
        if not found:
            raise ModelError(f"scope: {self.scope} holds no parameter that the reward depends on")
        return at_least_single(rewards.detach()), found

    def _wait(self, inputs: Inputs) -> int:
        """Return how many numbers of layers may wait to be read together: at most half of what a pass with gradients of
        the weights holds in these. A CPU has nothing of it."""
        if next(iter(inputs.values())).is_cpu:
            return 0
        return max(BLOCK, sum(parameter.numel() for parameter in self.parameters.values()) // 2)

    def _rewards(self, inputs: Inputs) -> Tensor:
        rewards = self._forward(inputs)
        if tuple(rewards.shape) != (count_rows(inputs),):
            raise DataError(
                f"reward model: got rewards of shape {tuple(rewards.shape)} for {count_rows(inputs)} rows;"
                " expected one number a row"
            )
        return rewards

    def _captured(self, slow: set[str]) -> Capture:
        return Capture(self.model, {n: p for n, p in self.parameters.items() if n not in slow}, copy=self._copy)

    def _patched(self) -> AbstractContextManager[None]:
        return row_by_row(self.model, self.parameters.values()) if self._by_row else nullcontext()

    def _give_up(self, names: set[str]) -> None:
        """Compute some parameters by one backward pass a row from now on."""
        self._slow |= {name: self.parameters[name] for name in names}
        uses = self._capture.uses
        self._capture = self._captured(set(self._slow))
        self._capture.uses = uses
        _log.warning(
            "influence: %d of %d parameters in scope %s (%s) are not read layer by layer; they take one backward pass"
            " a response",
            len(self._slow), len(self.parameters), self.scope, _some(sorted(self._slow)),
        )  # fmt: skip

    def _check(self, inputs: Inputs) -> None:
        """Set taps for what they read rightly, found out on two rows against autograd; the rest becomes slow."""
        few = _probe_rows(inputs)
        plain, found = self._by_autograd(few)
        truth = {name: g for name, g in zip(self.parameters, found, strict=True) if g is not None}
        sizes = {name: squared_norm(g) ** 0.5 for name, g in truth.items()}
        slow = set(self._slow)
        while True:
            capture = self._captured(slow)
            try:
                with self._fit.watch(few):
                    wrong = self._misread(capture, few, plain, truth, sizes)
            except NotByRow as error:
                wrong = error.names
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, IndexError):  # a model that changes in place what a tap handed on, or saw
                if not self._copy:
                    self._copy = True
                    continue
                wrong = set(capture.wanted)
            if not wrong:
                break
            slow |= wrong
        self._capture = capture
        if slow - self.slow:
            self._give_up(slow)
        self._checks_left = self._checks_left - 1 if 0.0 in sizes.values() else 0  # a zero proves nothing: look again

    def _by_autograd(self, few: Inputs) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the rewards of some rows, and the gradient of the first one in every parameter."""
        with frozen_except(self.model, self.parameters):
            try:
                plain = self._rewards(few)
                _check_finite(plain.detach())
                if not plain.requires_grad:
                    raise ModelError(f"scope: {self.scope} holds no parameter that the reward depends on")
                found = torch.autograd.grad(plain[0], list(self.parameters.values()), allow_unused=True)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, IndexError) as error:
                raise ModelError(
                    f"scope: the reward has no gradient in the parameters of {self.scope} ({one_line(error)[:400]});"
                    " use scope head"
                ) from None
        return plain.detach(), found

    def _misread(
        self, capture: Capture, few: Inputs, plain: Tensor, truth: dict[str, Tensor], sizes: dict[str, float]
    ) -> set[str]:
        """Return the parameters whose captured gradient of the first row's reward is not autograd's."""
        relative, floor = _TOLERANCE[rounded_as(plain)]
        total = math.hypot(*sizes.values())
        uses: dict[str, int] = {}
        right: set[str] = set()

        def compare(name: str, form: Form) -> None:
            allowed = (relative * sizes.get(name, 0.0) + floor * total) ** 2
            off = form.difference(0, truth[name]) if name in truth else 0.0
            if off + float(form.star(1)[0][0, 1:].sum()) <= allowed:
                right.add(name)

        with frozen_except(self.model, {}), self._patched(), capture.taps(count_rows(few), compare, uses) as root:
            rewards = self._rewards(few)
            if self._by_row and not torch.allclose(rewards, plain, rtol=relative, atol=relative):
                self._by_row = False
                return self._misread(capture, few, plain, truth, sizes)
            if capture.wanted:
                torch.autograd.grad(rewards[0], root, allow_unused=True)
        capture.uses = uses
        return {name for name in truth if name in capture.wanted and name not in right}


def _probe_rows(inputs: Inputs) -> dict[str, Tensor]:
    """Take two rows (the same one twice if there is one only); three where two is also the number of positions."""
    rows = count_rows(inputs)
    count = 3 if any(tensor.ndim > 1 and tensor.shape[1] == 2 for tensor in inputs.values()) else 2
    return take(inputs, tuple(slice(i % rows, i % rows + 1) for i in range(count)))


def _one_row(reward: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(reward, parameters, retain_graph=True, materialize_grads=True)
    return [at_least_single(g).flatten() for g in found]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_finite(*columns: Tensor) -> None:
    if bool(torch.cat([column.flatten() for column in columns]).isfinite().all()):  # the one wait for the device
        return
    for name, column in zip(("reward", "gradient product", "gradient product"), columns, strict=False):
        if not bool(column.isfinite().all()):
            where = (~column.isfinite()).nonzero()[0].tolist()
            raise NumericalError(f"{name}: entry {where} is not finite; check the reward model's weights and inputs")
