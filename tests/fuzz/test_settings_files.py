"""Settings in files and flags: the right configuration or one short line, whatever the bytes; no key in it."""

from __future__ import annotations

import time

import yaml
from hypothesis import given
from hypothesis import strategies as st

from foresighted.games import LINEAR
from foresighted.games.run import Request
from foresighted.judging.rubric import load_rubric
from foresighted.judging.settings import EvaluateConfig
from foresighted.settings import CompareConfig, TrainConfig, from_mapping, names, read_yaml, to_yaml

LONGEST = 1500
"""Characters of a line; several settings may be wrong at once."""
SECRET = "sk-Q7w8E9r0T1y2U3i4O5p6"
KINDS = ("train", "compare", "evaluate", "simulate")
NAMES = {
    "train": names(TrainConfig),
    "compare": names(CompareConfig),
    "evaluate": names(EvaluateConfig),
    "simulate": [*names(Request), *names(LINEAR.settings)],
}
NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31, 2**63, 2**70, 10**400, 1e300, 1e-300, float("inf"), float("nan"), -0.0, True]
)
TEXTS = st.sampled_from([
    "", "none", "true", "1", "0:4000000000", "0:3", "3:0", "9" * 4000, "1e5", ".inf", "\u2028", "\x1b[2J", "\ud800",
    "a=b", "rlhf:gamma=1", "gamma=0.1:1:lin1000000000", "gamma=1,1", "x" * 5000, "http://[::1", "http://h:99999/v1",
    "2024-13-45", f"http://u:{SECRET}@h/v1", f"http://h/v1?api_key={SECRET}", SECRET,
])  # fmt: skip
VALUES = st.recursive(
    NUMBERS | TEXTS | st.none() | st.text(max_size=8) | st.integers() | st.floats(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=8,
)


def _made(kind: str, values: dict):
    if kind == "evaluate":
        return from_mapping(EvaluateConfig, {"policies": ["a=b", "c=d"], **values})
    if kind == "simulate":
        return from_mapping(Request, values, {"base": LINEAR.settings}, game=LINEAR)
    return from_mapping({"train": TrainConfig, "compare": CompareConfig}[kind], values)


def _read_again(made) -> bool:
    text = to_yaml(made)
    again = yaml.safe_load(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    if isinstance(made, Request):
        return _made("simulate", again) == made
    return "\ufffd" in text or from_mapping(type(made), again) == made


def _short(function, *given_):
    """Return what a function does; its line is short, and holds no key."""
    try:
        return function(*given_)
    except Exception as error:
        if len(str(error)) > LONGEST or SECRET in str(error):
            raise AssertionError(f"{len(str(error))} characters: {str(error)[:300]}") from None
        raise


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_values_give_the_right_settings_or_one_line(tally, kind, data):
    counts = tally("settings: values")
    chosen = data.draw(st.lists(st.sampled_from(NAMES[kind]) | st.text(max_size=5), max_size=3))
    values = {name: data.draw(VALUES) for name in chosen}
    counts.call(_short, _made, kind, values, right=_read_again)


BLOCKS = st.sampled_from([
    "seed: 1", "seed: 2", "policy: x", "- a", "a: &a [x, y]", "b: &b [*a, *a, *a, *a]", "c: *b", "<<: *a",
    "a: &a [*a]", "? [x]", "!!python/object:os.system x", "!!binary x", "seed: 0x_", "x: 2024-13-45", "---", "...",
    "%YAML 9.9", "\t", "seeds: 0:16", "x: 'it", "x: \"\\ud800\"", "x: \u2028", "[" * 3000, "{" * 300,
    f"x: {'9' * 5000}", "x: |\n  text",
    "\x00",
])  # fmt: skip
FINE = st.sampled_from([
    "seed: 1", "policy: x", "rounds: 3", "arms: &a [x, y]", "same: *a", "criteria: be kind", "seeds: 0:16",
    "# said", "",
    'text: "\\u2028 \\ud800"', "block: |\n  lines\n  of text", "kinds: {a: b}",
])  # fmt: skip
FILES = (
    st.lists(FINE, max_size=5, unique=True).map(lambda lines: "\n".join(sorted(lines)).encode())
    | st.lists(FINE | BLOCKS, max_size=6).map(lambda lines: "\n".join(lines).encode())
    | st.binary(max_size=60)
)


@given(data=FILES)
def test_bytes_of_a_file_are_settings_or_one_line(tally, tmp_path_factory, data):
    counts = tally("settings: bytes of a file")
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_bytes(data)
    began = time.monotonic()
    counts.call(_short, read_yaml, path, right=lambda found: isinstance(found, dict))
    counts.call(_short, load_rubric, str(path), right=lambda found: bool(found.criteria))
    assert time.monotonic() - began < 10


@given(command=st.sampled_from(["train", "compare", "evaluate", "simulate linear"]), data=st.data())
def test_flags_are_settings_or_one_line(tally, tmp_path_factory, capsys, command, data):
    counts = tally("settings: flags")
    kind = command.split()[0]
    name = data.draw(st.sampled_from([*NAMES[kind], "api_key", "api-key"]))
    value = data.draw(TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()))
    out = tmp_path_factory.mktemp("o") / "out"
    flags = ["--dry-run", "--out", str(out), f"--{name.replace('_', '-')}", value]
    if kind == "evaluate":
        flags += ["--policies", f"a={out}-a.jsonl,b={out}-b.jsonl"]
    _, said = counts.command([*command.split(), *flags], capsys)
    assert SECRET not in said
    assert len(said) < 6 * LONGEST
    assert not out.exists()
