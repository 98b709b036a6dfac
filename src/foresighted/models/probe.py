"""Whether a reward model reads as it should: tried on a few texts when it is loaded, never assumed."""

from __future__ import annotations

import inspect
import logging
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foresighted.errors import DataError, ForesightedError, ModelError, one_line
from foresighted.influence.rounding import in_full
from foresighted.models.reward_model import RewardModel

_log = logging.getLogger(__name__)
_QUESTION = "What is rain?"
_TEXTS = (
    (_QUESTION, "Yes"),
    (_QUESTION, "Water that falls from clouds."),
    ("Why is the sky blue, and why does it turn red in the evening?", "Air scatters blue light."),
)
"""Short and long, so that some are padded; two answers to one question."""
_CLOSE, _ROUGH = 1e-3, 0.1
"""Difference of two readings of one text that is rounding, as a share of 1 or of the larger value: in single precision,
and below (half precision, TF32, quantised weights)."""
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


def check_reading(model: RewardModel, name: str) -> None:
    """Read some texts in a batch, through the network and through features and head, and the padded ones alone.

    Raises:
        ModelError: the readings differ, are not finite, or do not depend on the answer; or the model cannot read.
        DataError: the longest input is shorter than a short answer.
    """
    rows = [row for row in _TEXTS[1:] if _fits(model, *row)]
    rows.insert(0, _TEXTS[0])
    prompts, responses = ([row[i] for row in rows] for i in (0, 1))
    try:
        inputs = model.encode(prompts, responses)
        batch, through_head = _read(model, prompts, responses)
        masks = [mask for name, mask in inputs.items() if name.endswith("attention_mask")]
        padded = [i for i in range(len(rows)) if not masks or not all(bool(mask[i].all()) for mask in masks)]
        alone = [_said(model, *([text] for text in rows[i])) for i in padded]
    except ForesightedError:
        raise
    except Exception as error:  # whatever its code raises
        kind = type(getattr(model.body, "base_model", model.body)).__name__
        raise ModelError(
            f"reward_model: {name} ({kind}) cannot read a prompt and a response as its tokenizer writes them"
            f" ({one_line(error)[:200]}); give another model, or its own tokenizer"
        ) from None
    if len(rows) > 1 and torch.equal(inputs["input_ids"][0], inputs["input_ids"][1]):
        raise ModelError(f"reward_model: what {name} reads does not hold the response; mend its chat template")
    same = partial(_same, name, share=_CLOSE if all(map(in_full, model.body.parameters())) else _ROUGH)
    same(through_head, batch, "what enters its last linear layer, through that layer, is not its own reward")
    if padded:
        same(torch.cat(alone), batch[padded], "it reads a text that is padded differently from the same text alone")


def _fits(model: RewardModel, prompt: str, response: str) -> bool:
    try:
        return bool(model.encode([prompt], [response]))
    except DataError:
        return False


@torch.no_grad()
def _read(model: RewardModel, prompts: list[str], responses: list[str]) -> tuple[Tensor, Tensor]:
    """Return what the network says of some rows, and what features and head say."""
    said = _said(model, prompts, responses)
    return said, said if model.network.head is not None else model.rewards(model.features(prompts, responses))


@torch.no_grad()
def _said(model: RewardModel, prompts: list[str], responses: list[str]) -> Tensor:
    """Return what the network says of some rows. An encoder's head may be zeros, so its features stand in for
    rewards."""
    if model.network.head is not None:
        return model.features(prompts, responses)
    said: Tensor = model.network(**model.encode(prompts, responses))
    return said.float()


def _same(name: str, first: Tensor, second: Tensor, told: str, *, share: float) -> None:
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise ModelError(f"reward_model: {name} says {float(first.sum())} of a text; its weights are not finite")
    apart = float((first - second).abs().max())
    if apart > share * max(1.0, float(first.abs().max()), float(second.abs().max())):
        pair = [f"{float(t.flatten()[int((first - second).abs().argmax())]):.4g}" for t in (first, second)]
        raise ModelError(f"reward_model: {name}: {told} ({pair[0]} against {pair[1]}); give another one")


def accepted(body: Any) -> list[str]:
    """Return the inputs of a tokenizer that a model has use for."""
    module = body.get_base_model() if hasattr(body, "get_base_model") else body
    names = inspect.signature(module.forward).parameters
    return [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in names]


def longest_input(body: Any, tokenizer: Any, asked: int | None) -> int:
    """Return the most tokens that a model is given: what was asked for, up to what model and tokenizer take."""
    own = [_limit(body), tokenizer.model_max_length]
    taken = min((int(n) for n in own if isinstance(n, int | float) and n > 0), default=sys.maxsize)
    if asked is not None and asked > taken:
        _log.warning("reward_model_max_length: got %d, model and tokenizer take %d tokens", asked, taken)
    return taken if asked is None else min(asked, taken)


def _limit(body: Any) -> int | None:
    """Return a model's number of positions, less those that a table of positions begins with (RoBERTa's do)."""
    config = body.config.get_text_config()
    named = [getattr(config, name, None) for name in _POSITIONS]
    limits = [n for n in named if isinstance(n, int) and n > 0][:1]
    for name, module in body.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min(limits, default=None)
