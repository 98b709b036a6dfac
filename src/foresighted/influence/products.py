"""Rewards and gradient products of any torch reward model, for the cost of about one batched forward and backward."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foresighted.errors import ConfigError, DataError, ModelError, NumericalError, one_line
from foresighted.influence.capture import Capture, NotByRow, frozen_except
from foresighted.influence.deberta import row_by_row
from foresighted.influence.layers import Dense, Form, at_least_single, squared_norm
from foresighted.influence.naive import Forward, Inputs, classifier
from foresighted.influence.scopes import select
from foresighted.steering import Products

_log = logging.getLogger(__name__)
_TOLERANCE = {
    torch.float64: (1e-7, 1e-12), torch.float32: (5e-3, 1e-5), torch.bfloat16: (0.1, 1e-2), torch.float16: (0.1, 1e-2),
}  # fmt: skip
"""Error above which a captured gradient is not the one that autograd gives: shares of its own size and of the whole
gradient's (some gradients, as that of an attention key's bias, are nothing but rounding)."""

_CHECKS = 3
"""Most calls that check the layers: one, but for gradients of exactly 0 (a head that starts at 0 has no others)."""

Read = Callable[[Form], Tensor]
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
        chunk: most rows in one pass; bounds memory, and changes results in the last bits only.

    Raises:
        ConfigError: a scope that does not exist or selects no parameters, a chunk below 2.
        ModelError: a model without head, or quantised weights in the scope.
    """

    def __init__(
        self, model: nn.Module, *, scope: str = "head", forward: Forward | None = None, chunk: int = 64
    ) -> None:
        if chunk < 2:
            raise ConfigError(f"chunk: got {chunk}, must be at least 2 (a candidate and its reference)")
        self.model = model
        self.scope = scope
        self.chunk = chunk
        self.parameters = select(model, scope)
        self._forward = forward or classifier(model)
        self._capture: Capture | None = None
        self._slow: dict[str, nn.Parameter] = {}
        self._by_row = True
        self._copy = False
        self._checks_left = _CHECKS

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
        rows = _rows(inputs)
        per = rows // prompts if prompts >= 1 else 0
        if per < 2 or per * prompts != rows:
            raise DataError(
                f"inputs: got {rows} rows for {prompts} prompts; expected N candidates and a reference each"
            )
        reward = torch.zeros(rows)
        norms, cross = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
        for index, groups in _groups(prompts, per, self.chunk):

            def star(form: Form, groups: int = groups) -> Tensor:
                return torch.stack(form.star(groups))

            found, sums = self._run(_take(inputs, index), star, metric)
            reward = reward.to(found.dtype)
            reward[index], norms[index], cross[index] = found, sums[0].flatten(), sums[1].flatten()
        gram = norms - cross
        spread = (norms - 2 * cross + norms.view(prompts, per)[:, -1:].expand(-1, per).flatten()).clamp(min=0)
        columns = [t.to(reward.dtype).view(prompts, per) for t in (reward, gram, spread)]
        _check_finite(*columns)
        device = next(iter(inputs.values())).device
        reward, gram, spread = (column.to(device) for column in columns)
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
        rows = _rows(inputs)
        reward, gram = torch.zeros(rows), torch.zeros(rows, rows, dtype=torch.float64)
        for index in _pairs_of_blocks(rows, self.chunk):
            found, own = self._run(_take(inputs, index), lambda form: form.gram(), metric)
            reward = reward.to(found.dtype)
            reward[index] = found
            gram[index[:, None], index[None, :]] = own
        gram = gram.to(reward.dtype)
        _check_finite(reward, gram)
        device = next(iter(inputs.values())).device
        return reward.to(device), gram.to(device)

    def _run(self, inputs: Inputs, read: Read, metric: Metric | None) -> tuple[Tensor, Tensor]:
        """Make one pass over some rows; return their rewards and the sum over layers of what `read` reads of them."""
        capture = self._capture
        if capture is None or self._checks_left:
            capture = self._checked(inputs)
        try:
            return self._pass(capture, inputs, read, metric)
        except NotByRow as error:
            names = error.names
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError):  # what the check did not meet
            names = set(capture.wanted)
            if not names:
                raise
        self._give_up(names)
        return self._run(inputs, read, metric)

    def _pass(self, capture: Capture, inputs: Inputs, read: Read, metric: Metric | None) -> tuple[Tensor, Tensor]:
        parts: list[Tensor] = []

        def add(name: str, form: Form) -> None:
            part = read(form if metric is None else form.scaled(metric[name].sqrt())).double()
            parts[:] = [parts[0] + part if parts else part]

        rows = _rows(inputs)
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
        if not parts:
            raise ModelError(f"scope: {self.scope} holds no parameter that the reward depends on")
        return at_least_single(rewards.detach()).cpu(), parts[0].cpu()

    def _rewards(self, inputs: Inputs) -> Tensor:
        rewards = self._forward(inputs)
        if tuple(rewards.shape) != (_rows(inputs),):
            raise DataError(
                f"reward model: got rewards of shape {tuple(rewards.shape)} for {_rows(inputs)} rows;"
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
        uses = {} if self._capture is None else self._capture.uses
        self._capture = self._captured(set(self._slow))
        self._capture.uses = uses
        _log.warning(
            "influence: %d of %d parameters in scope %s (%s) are not read layer by layer; they take one backward pass"
            " a response",
            len(self._slow), len(self.parameters), self.scope, _some(sorted(self._slow)),
        )  # fmt: skip

    def _checked(self, inputs: Inputs) -> Capture:
        """Return taps for what they read rightly, found out on two rows against autograd; the rest becomes slow."""
        few = _take(inputs, _probe_rows(inputs))
        plain, found = self._by_autograd(few)
        truth = {name: g for name, g in zip(self.parameters, found, strict=True) if g is not None}
        sizes = {name: squared_norm(g) ** 0.5 for name, g in truth.items()}
        self._checks_left = self._checks_left - 1 if 0.0 in sizes.values() else 0  # a zero proves nothing: look again
        slow = set(self._slow)
        while True:
            capture = self._captured(slow)
            try:
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
        return self._capture

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
        relative, floor = _TOLERANCE[plain.dtype]
        total = math.hypot(*sizes.values())
        uses: dict[str, int] = {}
        right: set[str] = set()

        def compare(name: str, form: Form) -> None:
            allowed = (relative * sizes.get(name, 0.0) + floor * total) ** 2
            off = form.difference(0, truth[name]) if name in truth else 0.0
            if off + float(form.star(1)[0][0, 1:].sum()) <= allowed:
                right.add(name)

        with frozen_except(self.model, {}), self._patched(), capture.taps(_rows(few), compare, uses) as root:
            rewards = self._rewards(few)
            if self._by_row and not torch.allclose(rewards, plain, rtol=relative, atol=relative):
                self._by_row = False
                return self._misread(capture, few, plain, truth, sizes)
            if capture.wanted:
                torch.autograd.grad(rewards[0], root, allow_unused=True)
        capture.uses = uses
        return {name for name in truth if name in capture.wanted and name not in right}


def _rows(inputs: Inputs) -> int:
    counts = {name: tensor.shape[0] for name, tensor in inputs.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"inputs: got {counts or 'nothing'}; expected tensors with one row a response")
    return next(iter(counts.values()))


def _take(inputs: Inputs, index: Tensor) -> dict[str, Tensor]:
    return {name: tensor[index.to(tensor.device)] for name, tensor in inputs.items()}


def _groups(prompts: int, per: int, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """Yield rows and their number of groups: whole prompts where they fit, else parts of one with its reference."""
    if per <= chunk:
        step = chunk // per
        for first in range(0, prompts, step):
            groups = min(step, prompts - first)
            yield torch.arange(first * per, (first + groups) * per), groups
        return
    for prompt in range(prompts):
        last = (prompt + 1) * per - 1
        for part in torch.split(torch.arange(prompt * per, last), chunk - 1):
            yield torch.cat([part, torch.tensor([last])]), 1


def _pairs_of_blocks(rows: int, chunk: int) -> Iterator[Tensor]:
    """Yield rows so that every two rows are together once at least."""
    if rows <= chunk:
        yield torch.arange(rows)
        return
    blocks = torch.split(torch.arange(rows), chunk // 2)
    for first, second in itertools.combinations(blocks, 2):
        yield torch.cat([first, second])


def _probe_rows(inputs: Inputs) -> Tensor:
    """Return two rows (the same one twice if there is one only); three where two is also the number of positions."""
    rows = _rows(inputs)
    count = 3 if any(tensor.ndim > 1 and tensor.shape[1] == 2 for tensor in inputs.values()) else 2
    return torch.arange(count) % rows


def _one_row(reward: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(reward, parameters, retain_graph=True, materialize_grads=True)
    return [at_least_single(g).flatten() for g in found]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_finite(*columns: Tensor) -> None:
    for name, column in zip(("reward", "gradient product", "gradient product"), columns, strict=False):
        if not bool(column.isfinite().all()):
            where = (~column.isfinite()).nonzero()[0].tolist()
            raise NumericalError(f"{name}: entry {where} is not finite; check the reward model's weights and inputs")
