"""Messages through a tokenizer's chat template: in one place for policies and reward models, with what it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from foresighted.errors import DataError, ForesightedError, ModelError, one_line
from foresighted.models.bounded import bounded


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
