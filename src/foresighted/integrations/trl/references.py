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
    """Writes one reference response a prompt.

    Args:
        policy: reads texts as they are and conversations through the chat template.
        seed: of the sampling noise, which is named by the prompt and draws from no generator of torch.
    """

    def __init__(self, policy: Policy, *, seed: int) -> None:
        self._policy = policy
        self._seed = seed

    @classmethod
    def of_trainer(
        cls, model: Any, tokenizer: Any, own: Any | None, *, begins: bool, seed: int, max_new_tokens: int
    ) -> FrozenPolicy:
        """Return the frozen policy of a trainer: `own` if the user gave one, else its model without the adapter.

        Raises:
            ConfigError: the trainer's model has no adapter to switch off, or one that was trained before.
        """
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
        return cls(Policy(model if own is None else own, tokenizer, own, published, chat=False), seed=seed)

    def write(self, prompts: Sequence[Text]) -> list[Text]:
        """Return one response a prompt, as messages where the prompt is messages. Equal prompts get the same one."""
        model = self._policy.model
        training = model.training
        model.eval()
        try:
            answers = {key: self._one(key, prompt) for key, prompt in {text_of(p): p for p in prompts}.items()}
        finally:
            model.train(training)
        return [
            answers[text_of(p)] if isinstance(p, str) else [{"role": "assistant", "content": answers[text_of(p)]}]
            for p in prompts
        ]

    def _one(self, key: str, prompt: Text) -> str:
        """One row at a time: what a prompt's reference is must not depend on the batch it is met in."""
        keys = [noise.key(self._seed, "reference", key)]
        return self._policy.sample([prompt], 1, keys, frozen=True, read_once=False).texts[0]
