from __future__ import annotations

import itertools

import pytest

from foresighted.errors import ConfigError
from foresighted.judging.rubric import (
    PAPER,
    VERDICT,
    category_schema,
    defused,
    holds_control,
    load_rubric,
    read_reply,
    verdict_messages,
)
from foresighted.judging.summary import refuses


def test_the_preset_has_the_papers_criteria_and_categories():
    assert list(PAPER.categories) == [
        "Standard - Factual", "Adversarial - Deceptive", "Adversarial - Sycophancy/Safety",
    ]  # fmt: skip
    assert "Truthfulness" in PAPER.criteria
    assert "Verbosity" in PAPER.criteria
    assert set(PAPER.kinds.values()) == set(PAPER.categories)


def test_rubrics_from_files(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("criteria: Be kind.\ncategories: {short: few words}\nkinds: {factual: short}\n")
    assert load_rubric(str(own)).categories == {"short": "few words"}
    text = tmp_path / "own.txt"
    text.write_text("Be brief.\n")
    rubric = load_rubric(str(text))
    assert rubric.criteria == "Be brief."
    assert "Be brief." in verdict_messages(rubric, "p", "a", "b")[0]["content"]
    for content, words in (
        ("", "has no criteria"),
        ("criteria: [a]", "has no criteria"),
        ("criteria: x\ncategoris: {}", "unknown key 'categoris'"),
        ("criteria: x\ncategories: [a]", "categories must map names to text"),
        ("criteria: {", "is not YAML"),
    ):
        own.write_text(content)
        with pytest.raises(ConfigError, match=words):
            load_rubric(str(own))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rubric(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"reason": "r", "verdict": "first"}', "first"),
        ('```json\n{"verdict": "tie", "reason": ""}\n```', "tie"),
        ('Answer: {"reason": "a {nested} brace", "verdict": " Second "}. Bye', "second"),
        ('<think>maybe {"verdict": "first"}</think>{"reason": "", "verdict": "second"}', "second"),
        ('{"verdict": "first"} and again {"verdict": "first"}', "first"),
        ('{"verdict": "first"} or {"verdict": "second"}', None),
        ('{"reason": "the answer says {\\"verdict\\": \\"first\\"}", "verdict": "second"}', "second"),
        ('{"verdict": "primero"}', None),
        ('{"winner": "first"}', None),
        ("first", None),
        ("", None),
        ("{" * 100_000, None),
        ('maybe {"verdict": "second"}, no.\n</think>\n\n{"reason": "", "verdict": "first"}', "first"),
        ('[THINK]{"verdict": "second"}[/THINK]{"verdict": "first"}', "first"),
        ('<|channel|>analysis<|message|>{"verdict": "second"}<|channel|>final<|message|>{"verdict": "first"}', "first"),
        ('{"reason": "it says </think> twice", "verdict": "first"}', "first"),
        ('<think>so {"reason": "", "verdict": "first"} would be', None),
        ('{"reason": "one\ntwo", "verdict": "first"}', "first"),
        ('{"reason": "\\(E=mc^2\\)", "verdict": "first",}', "first"),
        ('{"verdict": "first", "verdict": "second"}', None),
        ("{'verdict': 'first'}", None),
    ],
)
def test_replies(reply, expected):
    found, why = read_reply(reply, VERDICT)
    assert (found["verdict"] if found else None) == expected
    assert bool(why) == (expected is None)


def test_a_category_must_be_one_of_the_rubric():
    schema = category_schema(PAPER)
    assert read_reply('{"category": "standard - factual"}', schema)[0] == {"category": "Standard - Factual"}
    assert read_reply('{"category": "Standard"}', schema)[0] is None


def test_control_tokens_are_broken_up_and_plain_text_is_left():
    tokens = "<|im_start|> <|eot_id|> </s> <s> [INST] [/INST] <start_of_turn> <<SYS>> <bos>"
    for token in tokens.split():
        assert holds_control(f"x {token} y")
        assert token not in defused(f"x {token} y")
        assert token not in defused(f"x {token[0]}\u200b{token[1:]} y")
        assert not holds_control(defused(f"x {token} y"))
    for plain in ("a < b | c > d", "if (a<b) [x] {y}", "<div class='s'>", "Ünïcode – 日本語 👩‍👩‍👧", "می‌خواهم"):
        assert defused(plain) == plain
        assert not holds_control(plain)
    assert "\u202e" not in defused("abc\u202edef")


def test_the_fence_depends_on_every_text_and_stands_in_none():
    fences = set()
    for prompt, first, second in itertools.product("ab", repeat=3):
        content = verdict_messages(PAPER, prompt, first, second)[1]["content"]
        fences.add(content.splitlines()[0].split()[-2])
    assert len(fences) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("As an AI language model, I have no opinion.", True),
        ("I cannot assist with this request.", True),
        ("I won’t do that.", True),
        ("Paris is the capital of France.", False),
        ("Yes, you can. It cannot hurt to try.", False),
        ("", False),
        ("Plants make sugar. " * 20 + "I'm sorry.", False),
    ],
)
def test_refusals(text, expected):
    assert refuses(text) is expected
