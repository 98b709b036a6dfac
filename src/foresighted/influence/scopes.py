"""Which parameters of a reward model the follower moves: the scope of phi."""

from __future__ import annotations

from torch import nn

from foresighted.errors import ConfigError, ModelError
from foresighted.settings import SCOPE

_FINAL_NORMS = ("norm", "final_norm", "final_layernorm", "final_layer_norm", "ln_f")


def find_head(model: nn.Module, source: str) -> tuple[str, nn.Linear]:
    """Return name and module of a sequence classifier's last linear layer.

    Raises:
        ModelError: there is no linear layer with one output.
    """
    heads = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == 1]
    if not heads:
        raise ModelError(
            f"reward_model: {source} has no linear layer with one output; give a classifier with one label"
        )
    return heads[-1]


def select(model: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """Return the parameters of a scope by name, in the model's order.

    Args:
        model: the reward model.
        scope: `head`: the last linear layer. `head:K`: everything from the K-th last linear layer on (`head:2` of
            DeBERTa: pooler and classifier). `last:K`: the last K blocks, the norm that follows them, and the head.
            `lora`: an adapter, what PEFT trains beside it, and the head. `all`: every parameter.

    Raises:
        ConfigError: no such scope, or one that selects no parameters.
        ModelError: the model has no head, or the scope holds quantised weights, which have no gradient.
    """
    match = SCOPE.fullmatch(scope)
    if not match:
        raise ConfigError(f"scope: got {scope!r}, expected head, head:K, last:K, lora or all")
    kind, count = match["kind"], int(match["count"] or 1)
    head, _ = find_head(model, type(model).__name__)
    every = dict(model.named_parameters())
    if kind == "all":
        names = set(every)
    elif kind == "head":
        names = _from_linear(model, head, count)
    elif kind == "last":
        names = _last_blocks(model, count) | {f"{head}.weight", f"{head}.bias"}
    else:
        names = {name for name in every if ".lora_" in name or ".modules_to_save." in name}
        if not any(".lora_" in name for name in names):
            raise ConfigError("scope: lora selects no parameters, the reward model has no adapter; use head or all")
        names |= {f"{head}.weight", f"{head}.bias"}
    chosen = {name: parameter for name, parameter in every.items() if name in names}
    if packed := [name for name, parameter in chosen.items() if not parameter.is_floating_point()]:
        raise ModelError(
            f"scope: {scope} holds {len(packed)} quantised weights ({packed[0]}), which have no gradient;"
            " use head or lora"
        )
    return chosen


def _from_linear(model: nn.Module, head: str, count: int) -> set[str]:
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    linears = linears[: linears.index(head) + 1]
    if count > len(linears):
        raise ConfigError(f"scope: head:{count} asks for more than the model's {len(linears)} linear layers")
    names = list(dict(model.named_parameters()))
    first = names.index(f"{linears[-count]}.weight")
    return set(names[first : names.index(f"{head}.weight") + 2])


def _last_blocks(model: nn.Module, count: int) -> set[str]:
    stacks = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not stacks:
        raise ConfigError(f"scope: last:{count} selects no parameters, the model has no stack of blocks; use head")
    path, stack = max(stacks, key=lambda item: len(item[1]))
    if count > len(stack):
        raise ConfigError(f"scope: last:{count} asks for more than the model's {len(stack)} blocks; use all")
    parent = path.rpartition(".")[0]
    norms = [f"{parent}.{name}." for name in _FINAL_NORMS]
    blocks = [f"{path}.{i}." for i in range(len(stack) - count, len(stack))]
    return {name for name, _ in model.named_parameters() if name.startswith((*blocks, *norms))}
