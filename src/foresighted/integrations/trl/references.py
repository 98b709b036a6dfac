"""The frozen initial policy of a trainer: what it says to a prompt, and how far the trained one has moved from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from foresighted.errors import NumericalError
from foresighted.integrations.trl.config import FPOConfig, settled
from foresighted.integrations.trl.monitor import sharded
from foresighted.integrations.trl.processes import Processes
from foresighted.models import noise
from foresighted.models.policy import Decoding, Policy
from foresighted.models.pretrained import trained_adapter
from foresighted.models.rollout import Rollout
from foresighted.prompts import prompt_id
from foresighted.texts import text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)
MOST_PROMPTS = 4096
"""Whose references are kept; beyond it those that were written first are forgotten."""


def missing(model: Any, own: Any | None, *, begins: bool) -> tuple[str, str]:
    """Return why the frozen initial policy cannot be asked, and why it cannot be compared with the trained one.

    Args:
        model: the trainer's.
        own: the frozen policy if the user gave one.
        begins: whether the training begins anew, so that a trained adapter is one of before.

    Returns:
        Two texts, empty where it can be.
    """
    if sharded():
        shards = "the policy is in shards (FSDP, DeepSpeed), which FPOReward cannot read"
        return "" if own is not None else shards, shards
    why = ""
    if own is None and not hasattr(model, "disable_adapter"):
        why = "the policy has no adapter to switch off"
    elif own is None and begins and trained_adapter(model):
        why = "the policy's adapter was trained before, so the base model is not the initial policy"
    return why, why


class _Talk(tuple[dict[str, Any], ...]):
    """A conversation that equals another by its messages, as a key of a table."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash(text_of(list(self)))


class FrozenPolicy:
    """What a trainer's model is without its adapter, or a model of the user's.

    Args:
        model: the trainer's.
        tokenizer: its own, or the processor that holds it.
        own: the frozen policy if the user gave one; it goes to the device of the trainer's.
        config: how many references of what length, and the seed of their noise, which is named by the prompt and draws
            from no generator of torch.
        together: the processes of the training.
        kept: references that were written before, by the prompt's id.
        chunk: most responses in a pass.
        template: what the trainer tells the chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        own: Any | None,
        config: FPOConfig,
        together: Processes,
        *,
        kept: Mapping[str, list[str]] | None = None,
        chunk: int = 8,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        if own is not None and not hasattr(own, "hf_device_map"):
            own.to(next(model.parameters()).device)
        published = Decoding(config.reference_max_new_tokens, temperature=0.8, top_p=0.9)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        told: Any = {"chat": False, "template": template}
        self._policy = Policy(model, tokenizer, own, published, **told)
        self._writer = self._policy if own is None else Policy(own, tokenizer, own, published, **told)
        self._config = config
        self._together = together
        self._chunk = chunk
        self.kept = dict(kept or {})
        """References by the prompt's id, the same on every process."""

    def write(self, prompts: Sequence[Text]) -> list[list[Text]]:
        """Return M references of each prompt, as messages where the prompt is messages.

        A prompt's are written once, by one process, and kept. Called by all processes with the same prompts.
        """
        names = [prompt_id(prompt) for prompt in prompts]
        new = {name: prompt for name, prompt in zip(names, prompts, strict=True) if name not in self.kept}
        if new:
            mine = self._together.share(len(new))
            asked = list(new.values())[mine.start : mine.stop]
            drawn = self._together.gather(self._together.attempt(lambda: self._drawn(asked)))
            self.kept |= dict(zip(new, (texts for part in drawn for texts in part), strict=True))
        found = [self.kept[name] for name in names]
        for name in list(self.kept)[: max(0, len(self.kept) - MOST_PROMPTS)]:
            del self.kept[name]
        return [[_as(prompt, text) for text in texts] for prompt, texts in zip(prompts, found, strict=True)]

    def _drawn(self, prompts: Sequence[Text]) -> list[list[str]]:
        each, seed = self._config.references, self._config.seed
        if not prompts:
            return []
        places = [(text_of(prompt), n) for prompt in prompts for n in range(each)]
        keys = [noise.key(seed, "reference", text, *([n] if n else [])) for text, n in places]
        with _evaluating(self._writer.model):
            texts = self._writer.sample(prompts, each, keys, frozen=True, read_once=False).texts
        return [texts[start : start + each] for start in range(0, len(texts), each)]

    def log_ratio(
        self, prompts: Sequence[Text], responses: Sequence[Text], ids: Sequence[Sequence[int]] | None
    ) -> list[float]:
        """Return log pi(y | x) - log pi_ref(y | x) of each response of this process, in nats, without dropout.

        Args:
            prompts: one a response.
            responses: as many.
            ids: their tokens, an end token included; None: those of their texts.

        Raises:
            NumericalError: a ratio that is not finite.
        """
        if not prompts:
            return []
        policy = self._policy
        said = policy.encode_responses([text_of(y) for y in responses]) if ids is None else self._rollout(ids)
        found: list[float] = []
        asked: list[Any] = [x if isinstance(x, str) else _Talk(x) for x in prompts]
        with _evaluating(policy.model, self._writer.model):
            for start in range(0, len(asked), self._chunk):
                rows = range(start, min(start + self._chunk, len(asked)))
                texts, own = [asked[i] for i in rows], said.rows(rows)
                now = policy.log_likelihood(texts, own)
                found += (now - policy.log_likelihood(texts, own, frozen=True)).tolist()
        for prompt, ratio in zip(prompts, found, strict=True):
            if not abs(ratio) < float("inf"):
                raise NumericalError(
                    f"kl: log pi - log pi_ref of a response to prompt {prompt_id(prompt)!r} is {ratio}; lower the"
                    " trainer's learning_rate, or check the policy's weights"
                )
        return found

    def _rollout(self, ids: Sequence[Sequence[int]]) -> Rollout:
        device, pad = self._policy.device, self._policy.tokenizer.pad_token_id
        rows = [torch.tensor(list(row) or [pad], device=device) for row in ids]
        masks = [torch.full_like(tokens, int(bool(row))) for tokens, row in zip(rows, map(list, ids), strict=True)]
        padded = pad_sequence(rows, batch_first=True, padding_value=pad), pad_sequence(masks, batch_first=True)
        return Rollout(*padded, [""] * len(rows))


def _as(prompt: Text, text: str) -> Text:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


@contextmanager
def _evaluating(*models: Any) -> Iterator[None]:
    """Switch dropout and gradient checkpointing off for the time of a `with` block."""
    training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, training, strict=True):
            model.train(mode)


def settle(
    asked: FPOConfig, args: Any, model: Any, tokenizer: Any, own: Any | None, saved: Mapping[str, Any] | None,
    together: Processes, elsewhere: str,
) -> tuple[FPOConfig, FrozenPolicy | None]:  # fmt: skip  # one argument a line says no more
    """Return the settings that a training goes by, and its frozen policy where they need one; say what is not as asked.

    Args:
        asked: settings as given.
        args: the trainer's.
        model: the trainer's.
        tokenizer: its own.
        own: the frozen policy if the user gave one.
        saved: settings and references of the checkpoint that it goes on from (`checkpoint.State.told`), if one.
        together: the processes of the training.
        elsewhere: the other FPOReward of the trainer that takes the distance off, if one does.

    Raises:
        ConfigError: references of a frozen policy that cannot be asked.
    """
    settings, kept = (None, {}) if saved is None else (saved["settings"], saved["references"])
    beta = getattr(args, "beta", None) or 0.0  # of OnlineDPO one an epoch
    no_policy, no_ratio = missing(model, own, begins=saved is None)
    config, said = settled(
        asked, settings, beta=max(beta) if isinstance(beta, list | tuple) else float(beta), elsewhere=elsewhere,
        no_policy=no_policy, no_ratio=no_ratio,
    )  # fmt: skip
    for line in said if together.rank == 0 else ():
        _log.warning("%s", line)
    if config.reference != "policy" and not config.kl_coefficient:
        return config, None
    chunk, template = getattr(args, "per_device_train_batch_size", 8), getattr(args, "chat_template_kwargs", None)
    return config, FrozenPolicy(model, tokenizer, own, config, together, kept=kept, chunk=chunk, template=template)
