"""How a prompt and a response become the input of a reward model: layout, special tokens, padding, and what is cut."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from foresighted.texts import text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)

Layout = Literal["auto", "chat", "text", "pair", "response"]
"""What of a prompt and a response is read, and as what.

- `response`: the response alone, with special tokens.
- `pair`: two segments, with special tokens, as encoders are trained.
- `text`: prompt and response as one text, without special tokens, as GRPOTrainer feeds a reward model.
- `chat`: a user's message and the answer to it through the chat template; `pair` where the tokenizer has none.
- `auto`: `pair` where the tokenizer has a separator, else `text`.

Messages go through the chat template under every layout but `response`, where there is one.
"""


class Reader:
    """Encodes (prompt, response) rows, the same one by one as in a batch.

    What does not fit loses the beginning of its prompt, never of its response (but under `response`, which is cut at
    its end, and where the response alone does not fit).

    Args:
        tokenizer: with a padding token; it is copied.
        layout: what is read, and as what.
        longest: tokens that the model takes.
        append_eos: end every response that goes through no template with the end token.
    """

    def __init__(self, tokenizer: Any, *, layout: Layout, longest: int, append_eos: bool = False) -> None:
        self.tokenizer = copy.copy(tokenizer)
        if layout == "auto":
            layout = "text" if tokenizer.sep_token_id is None else "pair"
        if layout == "chat" and not tokenizer.chat_template:
            layout = "pair"
        if layout != "response":
            self.tokenizer.truncation_side = "left"
        self.layout = layout
        self.longest = longest
        self._end = str(tokenizer.eos_token) if append_eos else ""
        self._cut = False

    def __call__(self, prompts: Sequence[Text], responses: Sequence[Text]) -> dict[str, Tensor]:
        """Return token ids, mask and what else the tokenizer makes, shape R T each, padded on the right."""
        segments, special = self._segments(prompts, responses)
        form = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        batch = self.tokenizer(*segments, add_special_tokens=special, verbose=False, **form)
        if batch["input_ids"].shape[1] > self.longest:
            if not self._cut:
                self._cut = True
                lost = "its end" if self.layout == "response" else "the beginning of its prompt"
                _log.warning("a text has more than %d tokens: %s is cut off", self.longest, lost)
            rows = [self._row(parts, special) for parts in zip(*segments, strict=True)]
            batch = self.tokenizer.pad(rows, **form)
        return dict(batch)

    def _segments(self, prompts: Sequence[Text], responses: Sequence[Text]) -> tuple[tuple[list[str], ...], bool]:
        """Return the texts of every row, one or two of each, and whether special tokens are added to them."""
        talks = bool(responses) and isinstance(prompts[0], list) and self.layout != "response"
        if self.layout == "chat" or (talks and self.tokenizer.chat_template):
            return ([self._rendered(p, r) for p, r in zip(prompts, responses, strict=True)],), False
        first, second = [text_of(p) for p in prompts], [text_of(r) + self._end for r in responses]
        if self.layout == "pair":
            return (first, second), True
        if self.layout == "response":
            return (second,), True
        between = "\n" if talks else ""
        return ([p + between + r for p, r in zip(first, second, strict=True)],), False

    def _rendered(self, prompt: Text, response: Text) -> str:
        said, answer = (
            [{"role": role, "content": text}] if isinstance(text, str) else text
            for role, text in (("user", prompt), ("assistant", response))
        )
        text: str = self.tokenizer.apply_chat_template([*said, *answer], tokenize=False)
        return text

    def _row(self, parts: tuple[str, ...], special: bool) -> dict[str, list[int]]:
        """Return one row's tokens, cut to the limit."""

        def tokens(*texts: str, **form: Any) -> Any:
            return self.tokenizer(*texts, verbose=False, **form)

        over = len(tokens(*parts, add_special_tokens=special)["input_ids"]) - self.longest
        fits = len(parts) == 1 or len(tokens(parts[0], add_special_tokens=False)["input_ids"]) > over
        strategy = "only_first" if fits else "longest_first"
        return dict(tokens(*parts, add_special_tokens=special, truncation=strategy, max_length=self.longest))
