"""How a prompt and a response become the input of a reward model: layout, special tokens, padding, and what is cut."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from foresighted.errors import DataError
from foresighted.models.template import check_text, rendered
from foresighted.texts import text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)

Layout = Literal["auto", "chat", "text", "pair", "response", "beginning"]
"""What of a prompt and a response is read, and as what.

- `response`: the response alone, with special tokens.
- `pair`: two segments, with special tokens, as encoders are trained.
- `text`: prompt and response as one text, without special tokens, as GRPOTrainer feeds a reward model.
- `chat`: a user's message and the answer to it through the chat template; `auto` where the tokenizer has none.
- `auto`: `pair` where the tokenizer has a separator, else `text`.
- `beginning`: as `response`, and cut at its end where it is too long: for what is no response.

Messages go through the chat template under every layout but the last and `response`, where there is one.
"""
_ALONE = ("response", "beginning")


class _Written(NamedTuple):
    """One row as text: one or two segments, and how the first of them begins whatever the response is."""

    segments: tuple[str, ...]
    begins: Callable[[], str]


class Column(NamedTuple):
    """Texts that are read by themselves, whatever stands beside them."""

    texts: Sequence[Text]
    read: Callable[[Sequence[Text]], dict[str, Tensor]]
    """Encodes some of them, as `Reader` encodes rows."""


class Reader:
    """Encodes (prompt, response) rows, the same one by one as in a batch.

    What does not fit loses the beginning of its prompt, never of its response; a begin token stays. An empty row
    is the end token (or padding) alone.

    Args:
        tokenizer: with a padding token; it is copied.
        layout: what is read, and as what.
        longest: tokens that the model takes.
        append_eos: end every response that goes through no template with the end token.
        inputs: what the model has use for, of what the tokenizer makes; None: all.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        layout: Layout,
        longest: int,
        append_eos: bool = False,
        inputs: Sequence[str] | None = None,
    ) -> None:
        self.tokenizer = copy.copy(tokenizer)
        if layout == "chat" and not tokenizer.chat_template:
            layout = "auto"
        if layout == "auto":
            layout = "text" if tokenizer.sep_token_id is None else "pair"
        if layout not in _ALONE:
            self.tokenizer.truncation_side = "left"
        self.layout = layout
        self.longest = longest
        self.cut = 0
        """Rows that lost the beginning of their prompt, so far."""
        self._end = str(tokenizer.eos_token) if append_eos else ""
        self._inputs = inputs
        self._special = True

    def __call__(self, prompts: Sequence[Text], responses: Sequence[Text]) -> dict[str, Tensor]:
        """Return token ids, mask and what else the tokenizer makes, shape R T each, padded on the right.

        Raises:
            ModelError: a chat template that refuses the messages.
            DataError: a response that does not fit by itself, or what is no text.
        """
        rows = [self._written(p, r) for p, r in zip(prompts, responses, strict=True)]
        check_text("reward_model", (text for row in rows for text in row.segments))
        form = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        segments = [list(column) for column in zip(*(row.segments for row in rows), strict=True)]
        batch = self.tokenizer(*segments, add_special_tokens=self._special, verbose=False, **form)
        width = batch["input_ids"].shape[1]
        if width > self.longest or not width or not bool(batch["attention_mask"].any(1).all()):
            before = self.cut
            batch = self.tokenizer.pad([self._row(row) for row in rows], **form)
            self._tell(before)
        return {name: tensor for name, tensor in batch.items() if self._inputs is None or name in self._inputs}

    def columns(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[Column]:
        """Return what is read by itself of some rows; nothing where prompt and response are read as one."""
        return [Column(responses, lambda texts: Reader.__call__(self, texts, texts))] if self.layout in _ALONE else []

    def count_cut(self, prompts: Sequence[Text], responses: Sequence[Text]) -> None:
        """Count the rows that lose the beginning of their prompt, where another reader has read them for the model."""
        self(prompts, responses)

    def _tell(self, before: int) -> None:
        """Say how many rows were cut: at the first, and whenever ten times as many were."""
        marks = [10**power for power in range(12) if before < 10**power <= self.cut]
        if marks:
            _log.warning(
                "the beginning of a prompt is cut off: %d %s so far had more than the %d tokens that the reward model"
                " reads",
                self.cut, "text" if self.cut == 1 else "texts", self.longest,
            )  # fmt: skip

    def _written(self, prompt: Text, response: Text) -> _Written:
        """Return a row as text; whether special tokens are added to it is the same for all rows of a reader."""
        talk = isinstance(prompt, list) and self.layout not in _ALONE
        self._special = False
        if self.layout == "chat" or (talk and self.tokenizer.chat_template):
            return self._talk(prompt, response)
        first, second = text_of(prompt), text_of(response) + self._end
        if self.layout == "text":
            first += "\n" if talk and len(prompt) > 1 else ""
            return _Written((first + second,), lambda: first)
        self._special = True
        return _Written((second,) if self.layout in _ALONE else (first, second), lambda: first)

    def _talk(self, prompt: Text, response: Text) -> _Written:
        said, answer = (
            [{"role": role, "content": text}] if isinstance(text, str) else text
            for role, text in (("user", prompt), ("assistant", response))
        )
        whole = rendered("reward_model", self.tokenizer, [*said, *answer])
        return _Written((whole,), lambda: whole[: _shared(whole, rendered("reward_model", self.tokenizer, said))])

    def _tokens(self, *texts: str, special: bool, **form: Any) -> dict[str, list[int]]:
        """Return one row's tokens, as in a batch: of an empty second text alone a tokenizer would make no segment."""
        batch = self.tokenizer(*([text] for text in texts), add_special_tokens=special, verbose=False, **form)
        return {name: column[0] for name, column in batch.items()}

    def _row(self, row: _Written) -> dict[str, list[int]]:
        """Return one row's tokens, cut to the limit."""
        made = self._tokens(*row.segments, special=self._special)
        ids = made["input_ids"]
        if not ids:
            end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
            return {key: [0] for key in made} | {"input_ids": [pad if end is None else end], "attention_mask": [1]}
        over = len(ids) - self.longest
        if over <= 0:
            return made
        if self.layout == "beginning":
            return self._tokens(*row.segments, special=True, truncation=True, max_length=self.longest)
        if self.layout == "response":
            raise self._too_long(len(ids))
        own = self._tokens(row.begins(), special=False)["input_ids"]
        pair = len(row.segments) == 2
        kept = int(not pair and ids[0] == self.tokenizer.bos_token_id)
        spare = len(own) if pair else _shared(ids, own) - kept
        if over > spare:
            raise self._too_long(len(ids) - max(spare, 0))
        self.cut += 1
        if pair:
            first = row.segments[0] if over < spare else ""  # what a tokenizer cuts away whole, it refuses
            form = {"truncation": "only_first", "max_length": self.longest}
            return self._tokens(first, row.segments[1], special=True, **form)
        return {name: [*column[:kept], *column[kept + over :]] for name, column in made.items()}

    def _too_long(self, count: int) -> DataError:
        return DataError(
            f"reward_model: a response takes {count} tokens without its prompt, the reward model reads {self.longest};"
            " shorten responses (max_new_tokens), or raise reward_model_max_length where the model takes more"
        )


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the number of tokens, or characters, with which two texts begin alike."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in pairs)


OF_THE_PROMPT = "prompt_"
"""Begins the names of what `ReaderOfBoth` makes of prompts."""


class ReaderOfBoth(Reader):
    """Encodes prompts and responses each by themselves, for a model that compares the two.

    A prompt that does not fit loses its end. What is made of prompts has names that begin with `OF_THE_PROMPT`.
    """

    def __init__(self, tokenizer: Any, *, longest: int, inputs: Sequence[str] | None = None) -> None:
        super().__init__(tokenizer, layout="response", longest=longest, inputs=inputs)
        self._of_prompts = Reader(tokenizer, layout="beginning", longest=longest, inputs=inputs)

    def __call__(self, prompts: Sequence[Text], responses: Sequence[Text]) -> dict[str, Tensor]:
        """Return what both readers make of their column."""
        asked = self._of_prompts(prompts, prompts)
        return {f"{OF_THE_PROMPT}{name}": t for name, t in asked.items()} | super().__call__(prompts, responses)

    def columns(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[Column]:
        """Return the responses, and the prompts."""
        return [*super().columns(prompts, responses), *self._of_prompts.columns(prompts, prompts)]
