"""What a row of anybody's says: its prompt, its response and its small values, under whatever names it has them.

A prompt is text; chat messages up to the last answer; or what two transcripts share. Of several messages it is made one
text as `texts.text_of` does, wherever prompts are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from foresighted.errors import DataError
from foresighted.inputs import shown
from foresighted.store.aliases import CHOSEN, CONVERSATIONS, REJECTED, keys_of, not_there
from foresighted.store.formats import parsed
from foresighted.texts import text_of

Messages = list[dict[str, Any]]
_ROLES = {
    "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant", "ai": "assistant",
}  # fmt: skip
MISSING = ("", "nan", "null", "none", "na", "n/a")
"""Words that stand for an absent number; upper and lower case count alike."""
TURNS = "turns"
"""MT-bench's key of a question's turns."""
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_SHOWN = 40


def absent(value: Any) -> bool:
    """Return whether a value stands for nothing: null, or the nan that tables have for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def prompt_of(row: Mapping[str, Any], where: str) -> str:
    """Return the prompt of a row.

    Raises:
        DataError: there is none (with the keys that are there, and the nearest that would do), or it is no text.
    """
    for key in keys_of("prompt", row):
        value = _plain(row[key])
        if absent(value):
            continue
        if isinstance(value, str) and key.strip().lower() == "instruction":
            value = _with_input(value, row)
        if isinstance(value, list) and value and isinstance(value[0], str) and _may_be_first(key, value):
            value = value[0]
        return _prompt(value, key, where)
    if (found := _conversation(row)) is not None:
        return _prompt(found[1], found[0], where)
    raise DataError(f"{where}: {_nothing('prompt', row)}; also read: {', '.join((*CONVERSATIONS, CHOSEN))}")


def _nothing(ours: str, row: Mapping[str, Any]) -> str:
    empty = keys_of(ours, row)
    return f"{empty[0]} is null; expected text" if empty else not_there(ours, row)


def _may_be_first(key: str, value: Sequence[Any]) -> bool:
    """Return whether the first of a list of texts is the prompt: it is the only one, or MT-bench's first turn."""
    return len(value) == 1 or key.strip().lower() == TURNS


def later_turns(row: Mapping[str, Any]) -> bool:
    """Return whether a row has turns beyond the first, which are not read."""
    found = keys_of("prompt", row)[:1]
    value = _plain(row[found[0]]) if found and found[0].strip().lower() == TURNS else None
    return isinstance(value, list) and len(value) > 1


def has_prompt(row: Mapping[str, Any]) -> bool:
    """Return whether a row has a prompt, or what should be one."""
    return any(not absent(row[key]) for key in keys_of("prompt", row)) or _conversation(row) is not None


def response_of(row: Mapping[str, Any], where: str) -> str:
    """Return the response of a row, which may be empty.

    Raises:
        DataError: there is none (with the keys that are there, and the nearest that would do), several, or no text.
    """
    for key in keys_of("response", row):
        if not absent(value := _plain(row[key])):
            return _answer(value, key, where)
    if isinstance(choices := _plain(row.get("choices")), list) and len(choices) == 1:  # MT-bench: the first turn
        turns = _plain(choices[0].get("turns")) if isinstance(choices[0], dict) else None
        if isinstance(turns, list) and turns and isinstance(turns[0], str):
            return checked(turns[0], "choices", where)
    whole = next((key for key in row if key.strip().lower() in CONVERSATIONS and not absent(row[key])), None)
    if whole is not None and (messages := messages_of(_plain(row[whole]))) and messages[-1]["role"] == "assistant":
        return checked(text_of(messages[-1:]), whole, where)
    raise DataError(f"{where}: {_nothing('response', row)}; also read: {', '.join(CONVERSATIONS)}")


def preference_of(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    """Return the prompt of a row, the response that was preferred and the other one.

    Of a transcript or of messages the last answer is the response.

    Raises:
        DataError: one of them is not there, or is no text.
    """
    return prompt_of(row, where), _side(row, CHOSEN, where), _side(row, REJECTED, where)


def _side(row: Mapping[str, Any], name: str, where: str) -> str:
    key = next((key for key in row if key.strip().lower() == name and not absent(row[key])), None)
    if key is None:
        raise DataError(f"{where}: no {name} response; expected the keys prompt, {CHOSEN} and {REJECTED}")
    messages = messages_of(value := _plain(row[key]))
    if messages and messages[-1]["role"] != "assistant":
        raise DataError(f"{where}: {key} ends without an answer; expected the last message to be the assistant's")
    return checked(text_of(messages[-1:]), key, where) if messages else _answer(value, key, where)


def _answer(value: Any, key: str, where: str) -> str:
    if isinstance(value, str):
        return checked(value, key, where)
    messages = messages_of(value)
    if messages:
        return checked(text_of(messages), key, where)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return checked(value[0], key, where)
    several = f"{len(value)} answers; give one a row" if isinstance(value, list) else f"{_short(value)}; expected text"
    raise DataError(f"{where}: {key} is {several}")


def checked(text: str, key: str, where: str) -> str:
    """Return a text; raises `DataError` where it holds half of a surrogate pair."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"{where}: {key} holds half of a surrogate pair, which is no text; mend the escape")
    return text


def name_of(value: Any, key: str, where: str) -> str | None:
    """Return an id, a kind or a split as text, None where it stands for nothing.

    Raises:
        DataError: it is neither text nor a number.
    """
    value = _plain(value)
    if absent(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table made room for a missing one
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is {_short(value)}; expected text or a number")
    return checked(str(value), key, where)


def whole_of(value: Any, key: str, where: str, *, most: int = 2**53) -> int | None:
    """Return a whole number, 0 or more, also from a table's text; None where it stands for nothing.

    Raises:
        DataError: it is no such number.
    """
    value = _plain(value)
    if absent(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{1,16}(\.0+)?", value.strip(), re.ASCII):
        value = int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise DataError(f"{where}: {key} is {_short(value)}; expected a whole number, 0 or more")
    return value


def number_of(value: Any) -> float | None:
    """Return a value as a number, also one in quotes, and None where it stands for nothing.

    Raises:
        TypeError, ValueError, OverflowError: it is no number.
    """
    if missing(value):
        return None
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    return float(value)


def missing(value: Any) -> bool:
    """Return whether a value stands for no number."""
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def messages_of(value: Any) -> Messages | None:
    """Return chat messages, ShareGPT's or a transcript's as `role` and `content`; None for anything else."""
    if isinstance(value, str):
        return _transcript(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        return None
    made: Messages = []
    for item in value:
        role = item.get("role", item.get("from")) if isinstance(item, Mapping) else None
        if not isinstance(role, str):
            return None
        content = _plain(item.get("content", item.get("value")))
        if not isinstance(content, str | list | None) or (
            isinstance(content, list) and not all(isinstance(part, dict) for part in content)
        ):
            return None
        made.append({"role": _ROLES.get(role.lower(), role), "content": content})
    return made


class Exchange(NamedTuple):
    """A whole exchange in two texts, None for what there is not."""

    prompt: str | None
    response: str | None
    """Its last message, where that is an answer."""


def parts_of(value: Any) -> Exchange:
    """Return the two parts of chat messages; of anything else, nothing."""
    messages = messages_of(_plain(value)) or []
    answered = bool(messages) and messages[-1]["role"] == "assistant"
    before = messages[:-1] if answered else messages
    return Exchange(text_of(before) if before else None, text_of(messages[-1:]) if answered else None)


def _transcript(text: str) -> Messages | None:
    """Return a transcript of `Human:` and `Assistant:` (Anthropic's HH) as messages."""
    if not re.match(r"\s*Human:", text):
        return None
    parts = _TURN.split("\n\n" + text.strip())
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in turns]


def _conversation(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the key and value of a whole exchange, of which the prompt is a part."""
    lower = {key.strip().lower(): key for key in reversed(list(row)) if not absent(row[key])}
    key = next((lower[name] for name in CONVERSATIONS if name in lower), None)
    if key is not None:
        return key, _plain(row[key])
    if CHOSEN not in lower:
        return None
    chosen = messages_of(_plain(row[lower[CHOSEN]]))
    rejected = messages_of(_plain(row[lower[REJECTED]])) if REJECTED in lower else None
    if chosen and rejected:
        same = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), len(chosen))
        chosen = chosen[:same] or chosen
    return None if chosen is None else (lower[CHOSEN], chosen)


def _prompt(value: Any, key: str, where: str) -> str:
    if isinstance(value, str):
        value = _unwrapped(value, key, where)
    if (messages := None if isinstance(value, str) else messages_of(value)) is not None:
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        other = next((kind for part in parts if (kind := part.get("type", "text")) != "text"), None)
        if other is not None:
            raise DataError(f"{where}: {key} holds {_short(other)}; only text is read")
        asked = [message for message in messages if message["role"].lower() not in ("assistant", "system")]
        if not asked:
            raise DataError(f"{where}: {key} has no turn of a user, so there is nothing to answer; expected a prompt")
        value = text_of(messages) if any(text_of([message]).strip() for message in asked) else ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} is {_short(value)}; expected text, or messages with role and content")
    if not value.strip():
        raise DataError(f'{where}: no text under "{key}"; expected a prompt')
    return checked(value, key, where)


def _unwrapped(text: str, key: str, where: str) -> Any:
    """Return the messages that a table's cell holds as JSON; any other text as it is."""
    if not re.match(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]", text):
        return text
    try:
        return parsed(text)
    except ValueError:
        raise DataError(f"{where}: {key} holds messages that are no JSON, {_short(text)}; write them as JSON") from None


def _with_input(instruction: str, row: Mapping[str, Any]) -> str:
    """Return an Alpaca instruction with the input that it speaks of."""
    given = next((row[key] for key in row if key.strip().lower() == "input"), None)
    return f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction


def _plain(value: Any) -> Any:
    """Return a NumPy value, which pandas puts into its columns, as plain Python."""
    made = value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value
    return list(made) if isinstance(made, Sequence) and not isinstance(made, str | bytes) else made


def _short(value: Any) -> str:
    return shown(value, _SHOWN)
