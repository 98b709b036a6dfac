"""Reference responses: what the frozen initial policy says to a prompt, the same whenever it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foresighted.errors import ConfigError
from foresighted.models import noise
from foresighted.models.policy import Decoding, Policy
from foresighted.models.pretrained import trained_adapter
from foresighted.texts import text_of
from foresighted.types import Text


class FrozenPolicy:
    """Writes one reference response a prompt: as a trainer's model does without its adapter, or a model of the user's.

    Args:
        model: the trainer's.
        tokenizer: its own.
        own: the frozen policy if the user gave one.
        begins: whether the training begins anew, so that a trained adapter is one of before.
        seed: of the sampling noise, which is named by the prompt and draws from no generator of torch.
        max_new_tokens: the longest response.

    Raises:
        ConfigError: the trainer's model has no adapter to switch off, or one that was trained before.
    """

    def __init__(
        self, model: Any, tokenizer: Any, own: Any | None, *, begins: bool, seed: int, max_new_tokens: int
    ) -> None:
        if own is None and begins and trained_adapter(model):
            raise ConfigError(
                "reference: the policy's adapter was trained before, so the base model is not the initial policy; give"
                " reference_policy=MODEL"
            )
        if own is None and not hasattr(model, "disable_adapter"):
            raise ConfigError(
                "reference: 'policy' needs the frozen initial policy, and the trained one has no adapter to switch off;"
                " give reference_policy=MODEL, or reference='leave-one-out'"
            )
        published = Decoding(max_new_tokens, temperature=0.8, top_p=0.9)
        self._policy = Policy(model if own is None else own, tokenizer, own, published, chat=False)
        self._seed = seed

    def write(self, prompts: Sequence[Text]) -> list[Text]:
        """Return one response a prompt, as messages where the prompt is messages. Equal prompts get the same one.

        One row at a time: what a prompt's reference is must not depend on the batch it is met in.
        """
        model, answers = self._policy.model, {}
        training = model.training
        model.eval()
        try:
            for name, prompt in {text_of(p): p for p in prompts}.items():
                keys = [noise.key(self._seed, "reference", name)]
                answers[name] = self._policy.sample([prompt], 1, keys, frozen=True, read_once=False).texts[0]
        finally:
            model.train(training)
        found = [answers[text_of(prompt)] for prompt in prompts]
        pairs = zip(prompts, found, strict=True)
        return [text if isinstance(p, str) else [{"role": "assistant", "content": text}] for p, text in pairs]
