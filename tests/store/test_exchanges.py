"""Prompt and response of a row, under every name and in every shape that is known."""

from __future__ import annotations

import numpy as np
import pytest

from foresighted.errors import DataError
from foresighted.store.exchanges import name_of, prompt_of, response_of, whole_of

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
HUMAN, GPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?"}, {"Question": "Why?"}, {"instruction": "Why?", "input": ""}, {"prompt": [USER]},
        {"prompt": USER}, {"prompt": np.array([USER], dtype=object)}, {"prompt": [PARTS]}, {"messages": [USER, ANSWER]},
        {"conversations": [HUMAN, GPT]}, {"turns": ["Why?", "And?"]}, {"prompt": None, "question": "Why?"},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No."}]},
        {"prompt": '[{"role": "user", "content": "Why?"}]'}, {"prompt": float("nan"), "messages": [USER]},
        {"prompt": "Why?", "chosen": [USER, ANSWER]},
    ],
)  # fmt: skip
def test_a_prompt_is_found_in_every_shape(row):
    assert prompt_of(row, "x") == "Why?"


def test_several_messages_are_one_text_and_an_instruction_has_its_input():
    again = {"role": "user", "content": "And?"}
    assert prompt_of({"messages": [USER, ANSWER, again, ANSWER]}, "x") == "user: Why?\nassistant: So.\nuser: And?"
    told = "\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: And?\n\nAssistant: "
    assert prompt_of({"chosen": told + "Yes.", "rejected": told + "No."}, "x") == (
        "user: Why?\nassistant: So.\nuser: And?"
    )
    assert prompt_of({"instruction": "Translate.", "input": "Oui"}, "x") == "Translate.\n\nOui"
    assert prompt_of({"prompt": "\n\nHuman: Why?\n\nAssistant:"}, "x") == "\n\nHuman: Why?\n\nAssistant:"  # verbatim


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"promt": "a", "id": 1}, "it has 'promt', 'id' (did you mean 'promt'?); also read: messages"),
        ({}, "it has nothing"),
        ({"prompt": None}, "prompt is null; expected text"),
        ({"prompt": 3}, "prompt is 3; expected text"),
        ({"prompt": ["a", "b"]}, "prompt is ['a', 'b']; expected text"),
        ({"prompt": " "}, 'no text under "prompt"'),
        ({"prompt": "a\ud800"}, "prompt holds half of a surrogate pair"),
        ({"prompt": "[{'role': 'user', 'content': 'a'}]"}, "holds messages that are no JSON"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "holds 'image'; only text is read"),
    ],
)
def test_what_holds_no_prompt_says_what_it_holds(row, words):
    with pytest.raises(DataError, match=r"^x: ") as caught:
        prompt_of(row, "x")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"response": "So."}, {"output": "So.", "answer": "42"}, {"generated_text": "So.", "answer": "42"},
        {"completion": [ANSWER]}, {"response": ["So."]}, {"messages": [USER, ANSWER]}, {"conversations": [HUMAN, GPT]},
        {"choices": [{"index": 0, "turns": ["So.", "Then."]}]}, {"text": "So."}, {"response": None, "text": "So."},
    ],
)  # fmt: skip
def test_a_response_is_found_in_every_shape(row):
    assert response_of(row, "x") == "So."


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"respnse": "a"}, "did you mean 'respnse'?"),
        ({"response": ["a", "b"]}, "response is 2 answers; give one a row"),
        ({"completions": [{"response": "a"}]}, "it has 'completions'"),
        ({"messages": [USER]}, "it has 'messages'"),
        ({"text": "a\udfff"}, "text holds half of a surrogate pair"),
    ],
)
def test_what_holds_no_response_says_what_it_holds(row, words):
    with pytest.raises(DataError, match=r"^x: ") as caught:
        response_of(row, "x")
    assert words in str(caught.value)


def test_small_values_are_read_from_any_table():
    assert [name_of(v, "id", "x") for v in ("a", 3, 3.0, None, float("nan"), "")] == ["a", "3", "3", None, None, None]
    assert [whole_of(v, "seed", "x") for v in ("7", 7, 7.0, "7.0", None, "")] == [7, 7, 7, 7, None, None]
    for value in (True, [1], "\ud800"):
        with pytest.raises(DataError, match="x: id "):
            name_of(value, "id", "x")
    for value in (-1, "x", 1.5, True, 10**400, "1" * 30):
        with pytest.raises(DataError, match="x: seed is "):
            whole_of(value, "seed", "x")
