"""Reference responses: what the frozen initial policy says to a prompt, the same whenever it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import LogitsProcessorList

from foresighted.errors import ConfigError
from foresighted.models import noise
from foresighted.texts import text_of
from foresighted.types import Text

TEMPERATURE, TOP_P = 0.8, 0.9
"""Of the published protocol."""


class FrozenPolicy:
    """Writes one reference response a prompt.

    Args:
        model: a causal language model.
        tokenizer: the policy's.
        adapter_off: read it with its PEFT adapter switched off.
        seed: of the sampling noise, which is named by the prompt and draws from no generator of torch.
        max_new_tokens: longest response.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, seed: int, max_new_tokens: int, adapter_off: bool = False
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._seed = seed
        self._longest = max_new_tokens
        self._adapter_off = adapter_off

    @classmethod
    def of_trainer(
        cls, model: Any, tokenizer: Any, own: Any | None, *, begins: bool, seed: int, max_new_tokens: int
    ) -> FrozenPolicy:
        """Return the frozen policy of a trainer: `own` if the user gave one, else its model without the adapter.

        Raises:
            ConfigError: the trainer's model has no adapter to switch off, or one that was trained before.
        """
        if own is None and begins and _trained_adapter(model):
            raise ConfigError(
                "reference: the policy's adapter was trained before, so the base model is not the initial policy; give"
                " reference_policy=MODEL"
            )
        if own is None and not hasattr(model, "disable_adapter"):
            raise ConfigError(
                "reference: 'policy' needs the frozen initial policy, and the trained one has no adapter to switch off;"
                " give reference_policy=MODEL, or reference='leave-one-out'"
            )
        if own is not None:
            return cls(own, tokenizer, seed=seed, max_new_tokens=max_new_tokens)
        return cls(model, tokenizer, seed=seed, max_new_tokens=max_new_tokens, adapter_off=True)

    @torch.no_grad()
    def write(self, prompts: Sequence[Text]) -> list[Text]:
        """Return one response a prompt, as messages where the prompt is messages. Equal prompts get the same one."""
        wanted = {text_of(prompt): prompt for prompt in prompts}
        answers = {key: self._one(key, prompt) for key, prompt in wanted.items()}
        return [
            answers[text_of(p)] if isinstance(p, str) else [{"role": "assistant", "content": answers[text_of(p)]}]
            for p in prompts
        ]

    def _one(self, key: str, prompt: Text) -> str:
        """One row at a time: what a prompt's reference is must not depend on the batch it is met in."""
        tokenizer, model = self._tokenizer, self._model
        if isinstance(prompt, str):
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        else:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = ids.to(next(model.parameters()).device)
        rows = torch.tensor([noise.key(self._seed, "reference", key)], dtype=torch.int64, device=ids.device)
        training = model.training
        model.eval()
        try:
            with model.disable_adapter() if self._adapter_off else nullcontext():
                output = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    logits_processor=LogitsProcessorList(
                        [noise.NucleusSampler(rows, temperature=TEMPERATURE, top_p=TOP_P)]
                    ),
                    do_sample=False,  # the sampler has drawn: what is left is its argmax
                    max_new_tokens=self._longest,
                    pad_token_id=tokenizer.pad_token_id,
                )
        finally:
            model.train(training)
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        return str(text).strip()


def _trained_adapter(model: Any) -> bool:
    """Return whether a LoRA adapter already changes its model: a fresh one has a B of zeros."""
    return any(".lora_B." in name and bool(p.any()) for name, p in model.named_parameters())
