"""Messages through a tokenizer's chat template: in one place for policies and reward models, with what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from foresighted.errors import DataError, ForesightedError, ModelError, one_line
from foresighted.models.bounded import bounded
from foresighted.types import Text

_log = logging.getLogger(__name__)
TEMPLATE_DATE = "26 Jul 2024"
"""Some chat templates write today's date; a run that goes on tomorrow must read the same prompts."""


def rendered(setting: str, tokenizer: Any, messages: Sequence[dict[str, Any]], **form: Any) -> str:
    """Return messages as the text that the chat template makes of them.

    Args:
        setting: whose template it is; errors begin with it.
        tokenizer: with a chat template.
        messages: of a conversation.
        form: what else the template is told.

    Raises:
        ModelError: the template refuses the messages, is none, or takes longer than any template needs.
    """
    roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in messages))
    told = f"{setting}: the chat template of its tokenizer"
    try:
        with bounded(told, "give a model with another one"):
            text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **form)
    except ForesightedError:
        raise
    except Exception as error:  # a template may raise anything
        raise ModelError(f"{told} refuses these messages (roles: {roles}; {one_line(error)[:200]})") from None
    return text


def check_text(setting: str, texts: Iterable[str]) -> None:
    """Raise a `DataError` where half of a surrogate pair stands in a text: no tokenizer reads it."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = text[max(0, error.start - 20) : error.start]
            raise DataError(
                f"{setting}: a text holds half of a surrogate pair after {where!r}, which is no text; mend the escape"
            ) from None


class PromptReader:
    """Reads prompts as a policy is to: through the chat template, up to where the answer begins.

    Args:
        tokenizer: with a padding token.
        rows: of the model's embedding.
        system_prompt: system message of prompts that are plain text; None leaves it to the chat template.
        chat: a prompt that is plain text goes through the chat template (if there is one) as a user's message.
        setting: what the policy was given for; errors begin with it.
        template: what the chat template is told besides.

    Raises:
        ModelError: a chat template that leaves the prompt out, or refuses the system message.
    """

    def __init__(
        self, tokenizer: Any, rows: int, *, system_prompt: str | None = None, chat: bool = True,
        setting: str = "policy", template: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip  # one argument a line says no more
        self._tokenizer, self._rows, self._setting = tokenizer, rows, setting
        self._system_prompt = system_prompt
        self._chat = chat and bool(tokenizer.chat_template)
        self._template = {"add_generation_prompt": True, "date_string": TEMPLATE_DATE, **(template or {})}
        told = "" if system_prompt is None else ", without the system prompt"
        if chat and not self._chat:
            _log.warning("the policy's tokenizer has no chat template: prompts are read as plain text%s", told)
        elif self._chat:
            self._try_template()

    def _try_template(self) -> None:
        """Refuse a chat template that leaves the prompt out or refuses a system message; say so where it drops one."""
        try:
            first, second = self.rendered("Why?"), self.rendered("When?")
        except ModelError as error:
            if self._system_prompt is None:
                raise
            raise ModelError(
                f"system_prompt: {error}; leave --system-prompt out, or put its words into the prompts"
            ) from None
        if first == second:
            raise ModelError(f"{self._setting}: the chat template of its tokenizer leaves the prompt out; mend it")
        if self._system_prompt is not None and self._system_prompt.strip() not in first:
            _log.warning(
                "system_prompt: the chat template of the %s leaves it out: the policy does not read it", self._setting
            )

    def rendered(self, prompt: Text) -> str:
        """Return a prompt as the chat template writes it, up to where its answer begins."""
        messages: Any = prompt
        if isinstance(prompt, str):
            system = [] if self._system_prompt is None else [{"role": "system", "content": self._system_prompt}]
            messages = [*system, {"role": "user", "content": prompt}]
        return rendered(self._setting, self._tokenizer, messages, **self._template)

    def ids(self, prompt: Text) -> list[int]:
        """Return the tokens of a prompt up to where its answer begins; an empty one becomes one pad.

        A chat template writes its own begin token. An end token that the tokenizer puts after a plain text is taken
        off: nothing is to be said after it.
        """
        tokenizer = self._tokenizer
        chat = self._chat or not isinstance(prompt, str)
        text = self.rendered(prompt) if chat else str(prompt)
        check_text(self._setting, (text,))
        ids: list[int] = tokenizer(text, add_special_tokens=not chat)["input_ids"]
        if not chat and ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            plain = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + (ids[0] == tokenizer.bos_token_id)
            while len(ids) > plain and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
                ids.pop()
        if ids and max(ids) >= self._rows:
            raise ModelError(
                f"tokenizer: token {max(ids)} of a prompt, the embedding of the {self._setting} has {self._rows}; give"
                " the model's own tokenizer"
            )
        return ids or [tokenizer.pad_token_id]
