"""One pass of a reward model that hands over, layer by layer, what per-sample gradients are made of.

Every layer that holds a wanted parameter gets a tap on its output. On the way back the tap sees the gradient of the
summed rewards there (rows do not meet in a reward model, so its row r belongs to reward r), and autograd's own saved
tensors give back what entered the layer, recomputed where the model checkpoints. Weights themselves need no gradient,
so the pass computes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foresighted.influence.layers import Form, combine, forms_of, known

Receive = Callable[[str, Form], None]
"""Called once a parameter and pass, with its name and its per-sample gradients."""


class NotByRow(Exception):  # noqa: N818  # never leaves this room
    """A layer saw something other than one row a response, so its parameters go the slow way."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


class _Tap(torch.autograd.Function):
    """The identity; its backward hands x and the output's gradient to `sink`. `root` makes autograd come by.

    A copy of both tensors stands what a model does to them in place afterwards (`x += y`), which a view does not.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, _root: Tensor, x: Tensor, sink: Callable[[Tensor, Tensor], None], copy: bool
    ) -> Tensor:
        ctx.save_for_backward(x.clone() if copy else x)
        ctx.sink = sink
        return output.clone() if copy else output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.sink(x, gradients[0])
        return gradients[0], None, None, None, None


class Capture:
    """Taps on the layers of a model that hold wanted parameters.

    Args:
        model: in eval mode.
        wanted: parameters by name.
        copy: hand on copies of what enters and leaves a layer, for models that change them in place.
    """

    def __init__(self, model: nn.Module, wanted: Mapping[str, nn.Parameter], *, copy: bool = False) -> None:
        self.wanted = dict(wanted)
        self.copy = copy
        self.uses: dict[str, int] = {}
        """How often a pass uses each parameter, once that is known; nothing waits for one that is used once."""
        self.listening = True
        """False while somebody else differentiates through the tapped graph."""
        names = {id(parameter): name for name, parameter in wanted.items()}
        self._layers: list[tuple[nn.Module, dict[str, str]]] = []
        for module in model.modules():
            own = {key: names[id(p)] for key, p in module._parameters.items() if p is not None and id(p) in names}
            if own:
                self._layers.append((module, own))

    @contextmanager
    def taps(self, rows: int, receive: Receive, uses: dict[str, int] | None = None) -> Iterator[Tensor]:
        """Tap the layers while it lasts; yields the root to differentiate in, once, after the forward pass.

        Args:
            rows: R, responses in the batch.
            receive: gets each parameter's per-sample gradients during the backward pass.
            uses: counts how often each parameter is used.

        Raises:
            NotByRow: a layer's output or its gradient does not have R rows.
        """
        root = torch.zeros((), requires_grad=True)
        waiting: dict[str, list[Form]] = {}

        def sink(module: nn.Module, own: dict[str, str], x: Tensor, delta: Tensor) -> None:
            if not self.listening:
                return
            with torch.no_grad(), _by_row(own):
                for key, form in forms_of(module, x.detach(), delta, own).items():
                    if uses is not None:
                        uses[own[key]] = uses.get(own[key], 0) + 1
                    self._take(own[key], form, waiting, receive)

        with ExitStack() as stack:
            for module, own in self._layers:
                hook = _output_hook(root, rows, own, sink, self.copy)
                stack.callback(module.register_forward_hook(hook).remove)
                if isinstance(module, nn.Embedding):
                    stack.callback(module.register_forward_pre_hook(_one_copy_a_row(rows)).remove)
            yield root
        for name in list(waiting):
            self._hand_over(name, waiting.pop(name), receive)

    def _take(self, name: str, form: Form, waiting: dict[str, list[Form]], receive: Receive) -> None:
        if self.uses.get(name) == 1:
            receive(name, form)
            return
        waiting.setdefault(name, []).append(form)
        if len(waiting[name]) == self.uses.get(name):
            self._hand_over(name, waiting.pop(name), receive)

    def _hand_over(self, name: str, forms: list[Form], receive: Receive) -> None:
        with _by_row({name: name}):
            form = combine(forms)
            if form is None:
                raise NotByRow({name})
            receive(name, form)


@contextmanager
def _by_row(own: Mapping[str, str]) -> Iterator[None]:
    """Make a `NotByRow` of what goes wrong where a layer does not compute what its type says: ids beyond its table."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError, ValueError):
        raise NotByRow(set(own.values())) from None


def _output_hook(
    root: Tensor,
    rows: int,
    own: dict[str, str],
    sink: Callable[[nn.Module, dict[str, str], Tensor, Tensor], None],
    copy: bool,
) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        x = args[0] if args else None
        tensors = isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape[0] == output.shape[0] == rows
        if not tensors or not known(module):
            raise NotByRow(set(own.values()))
        return _Tap.apply(output, root, x, lambda entered, delta: sink(module, own, entered, delta), copy)  # type: ignore[no-untyped-call]

    return hook


def _one_copy_a_row(rows: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    """Positions are often looked up once for the batch (shape 1 T) and added to every row; look them up for each."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        ids = args[0]
        if isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[0] == 1 and rows > 1:
            return (ids.expand(rows, -1), *args[1:])
        return None

    return hook


@contextmanager
def frozen_except(model: nn.Module, trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Set the model to eval mode with gradients for `trained` alone; put everything back afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    keep = {id(parameter) for parameter in trained.values()}
    model.eval()
    for parameter in before:
        if parameter.is_floating_point():
            parameter.requires_grad_(id(parameter) in keep)
    try:
        yield
    finally:
        for parameter, required in before.items():
            if parameter.is_floating_point():
                parameter.requires_grad_(required)
        for module, training in modes.items():
            module.training = training
