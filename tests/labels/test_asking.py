"""One contract for whoever is asked: lists, one by one, async, utilities, files and queues."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import replace

import pytest

from foresighted.alignment.run import train
from foresighted.errors import ConfigError, DataError
from foresighted.labels.asking import Asker, LabellerError
from foresighted.labels.buffer import Buffer
from foresighted.labels.labellers import Utilities, as_labeller, one_by_one, own_labels
from foresighted.labels.pair import Pair, Place, label_means, pair_id, utilities
from foresighted.labels.queue import FileQueue

PROMPTS = [f"prompt {i}" for i in range(6)]
FIRST = ["a" * (i + 1) for i in range(6)]
SECOND = ["b" * (7 - i) for i in range(6)]
FILE = """
def longer(prompt, first, second):
    return 1 / (1 + 2.0 ** (len(second) - len(first)))

async def later(prompt, first, second):
    return longer(prompt, first, second)

class Longer:
    def utility(self, prompts, responses):
        return [len(text) for text in responses]
    def __call__(self, prompts, first, second):
        return [longer(*row) for row in zip(prompts, first, second)]
whole = Longer()

def broken(prompt, first, second):
    return 1 / 0
"""


def longer(prompt, first, second):
    return 1 / (1 + 2.0 ** (len(second) - len(first)))


def of_lists(prompts, first, second):
    return [longer(*row) for row in zip(prompts, first, second, strict=True)]


async def awaited(prompts, first, second):
    return of_lists(prompts, first, second)


async def one_awaited(prompt, first, second):
    return longer(prompt, first, second)


class Lengths(Utilities):
    def __init__(self):
        self.read = 0

    def utility(self, prompts, responses):
        self.read += len(responses)
        return [math.log(2) * len(text) for text in responses]


class Answered(FileQueue):
    """A queue whose people are quick."""

    def submit(self, questions):
        super().submit(questions)
        lines = [{"id": q.id, "label": longer(q.prompt, q.first, q.second)} for q in questions]
        with (self.folder / "labels.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def labellers(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return {
        "lists": of_lists,
        "async": awaited,
        "one by one": one_by_one(longer),
        "async, one by one": one_by_one(one_awaited),
        "utilities": Lengths(),
        "file": own_labels("labels", f"{path}:longer"),
        "async file": own_labels("labels", f"{path}:later"),
        "object in a file": own_labels("labels", f"{path}:whole"),
        "by its parameter": as_labeller("labels", of_lists),
        "async, by its parameter": as_labeller("labels", awaited),
        "queue": Answered(tmp_path / "queue"),
    }


KINDS = ["lists", "async", "one by one", "async, one by one", "utilities", "file", "async file", "object in a file",
         "by its parameter", "async, by its parameter", "queue"]  # fmt: skip


def make_pairs(order=range(6)):
    rows = [(PROMPTS[i], FIRST[i], SECOND[i]) for i in order]
    return [Pair(pair_id(1, *row), *row, place=Place(i, 0, None)) for i, row in enumerate(rows)]


def read(asker, pairs, buffer):
    """Return labels by id, whether they come at once or through a queue, and count them."""
    asker.ask(pairs, 1)
    if asker.queue is None:
        buffer.add(pairs, read=len(pairs))
    else:
        buffer.wait_for(pairs)
        buffer.arrived(asker.collect(buffer.pending))
    return {pair.id: pair.label for pair in buffer.take()}


@pytest.mark.parametrize("kind", KINDS)
def test_contract_of_everybody_who_is_asked(kind, tmp_path):
    """One label a pair, in [0, 1], the same in any order, and counted once."""
    labeller, buffer = labellers(tmp_path)[kind], Buffer()
    labels = read(Asker(labeller, timeout=20.0), make_pairs(), buffer)
    expected = dict(zip((p.id for p in make_pairs()), of_lists(PROMPTS, FIRST, SECOND), strict=True))
    assert labels == pytest.approx(expected)
    assert all(0 <= label <= 1 for label in labels.values())
    turned = read(Asker(labeller), make_pairs(reversed(range(6))), buffer)
    assert turned == pytest.approx(labels)
    counts = buffer.counts
    assert (counts.labels_total, counts.labels_failed, counts.rounds_failed) == (12, 0, 0)
    assert not buffer.ready
    assert not buffer.pending


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "queue"])
def test_bits_are_a_function_of_seed_and_texts(kind, tmp_path):
    """The draws are those of 0.2: they depend neither on who is asked nor on the order."""
    bits = {}
    for seed in (0, 1):
        asker = Asker(labellers(tmp_path)[kind], sampled=True, seed=seed)
        bits[seed] = asker.preferences(PROMPTS, FIRST, SECOND)
        turned = asker.preferences(PROMPTS[::-1], FIRST[::-1], SECOND[::-1])
        assert turned[::-1] == bits[seed]
    assert bits == {0: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0], 1: [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]}


def test_bits_have_the_right_mean():
    prompts, count = [f"prompt {i}" for i in range(4000)], 4000
    bits = Asker(lambda p, a, b: [0.3] * len(p), sampled=True, seed=4).preferences(
        prompts, ["a"] * count, ["b"] * count
    )
    assert set(bits) == {0.0, 1.0}
    assert sum(bits) / count == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (lambda p, a, b: [1.5] * len(p), r"labels: got 1.5; a preference lies in \[0, 1\] \(prompt 'prompt 0'\)"),
        (lambda p, a, b: [math.nan] * len(p), "got nan; a preference lies in"),
        (lambda p, a, b: [-0.1] * len(p), "got -0.1; a preference lies in"),
        (lambda p, a, b: [0.5], r"got \[0.5\] for 6 pairs; return one number a pair"),
        (lambda p, a, b: 0.5, "got 0.5 for 6 pairs; return one number a pair"),
        (lambda p, a, b: ["first"] * len(p), "for 6 pairs; return one number a pair"),
        (one_by_one(lambda p, a, b: None), "for 6 pairs; return one number a pair"),
        (one_by_one(lambda p, a, b: "0.5"), r"got '0.5' \(str, not a number\) for 6 pairs"),
        (lambda p, a, b: [0.5] * 5 + [b"1"], r"got b'1' \(bytes, not a number\) for 6 pairs"),
        (one_by_one(lambda p, a, b: "yes"), "for 6 pairs; return one number a pair"),
    ],
)
def test_what_is_no_label_is_refused_and_never_asked_for_again(labels, said):
    with pytest.raises(DataError, match=said):
        Asker(labels, retries=3).ask(make_pairs(), 1)


@pytest.mark.parametrize(("value", "said"), [(math.inf, "utility inf"), (None, "return one number a response")])
def test_a_utility_that_is_none_is_refused(value, said):
    class Odd(Lengths):
        def utility(self, prompts, responses):
            return [value] * len(responses)

    with pytest.raises(DataError, match=said):
        Asker(Odd()).read(make_pairs())


def test_a_function_that_raises_is_named_with_its_line(tmp_path, tiny):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    with pytest.raises(LabellerError, match=r"^labels: .*mine.py, line 16 failed with ZeroDivisionError: .*; mend it"):
        train(replace(tiny, labels=f"{path}:broken"), tmp_path / "run")
    in_a_thread = Asker(own_labels("judge", f"{path}:broken"), timeout=5.0, setting="judge")
    with pytest.raises(LabellerError, match=r"^judge: .*mine.py, line 16 failed"):
        in_a_thread.ask(make_pairs(), 1)


@pytest.mark.parametrize("kind", ["sync", "async", "exits", "late", "async and late"])
def test_a_labeller_that_fails_is_asked_again(kind, monkeypatch, caplog):
    monkeypatch.setattr("foresighted.labels.asking.FIRST_WAIT", 0.01)
    calls = []

    def fail():
        calls.append(kind)
        if len(calls) < 3 and "late" not in kind:
            raise SystemExit(3) if kind == "exits" else ConnectionError("away")
        return 0.5 if len(calls) < 3 else 0.0

    def sync(prompts, first, second):
        time.sleep(fail())
        return of_lists(prompts, first, second)

    async def later(prompts, first, second):
        await asyncio.sleep(fail())
        return of_lists(prompts, first, second)

    labels = later if "async" in kind else sync
    asker = Asker(labels, retries=2, timeout=0.2)
    assert asker.preferences(PROMPTS, FIRST, SECOND) == of_lists(PROMPTS, FIRST, SECOND)
    assert [record.message.startswith("labels: attempt") for record in caplog.records] == [True, True]
    calls.clear()
    with pytest.raises(LabellerError, match="no answer within 0.2 s" if "late" in kind else "away|SystemExit"):
        Asker(labels, retries=1, timeout=0.2).preferences(PROMPTS, FIRST, SECOND)


def test_known_utilities_are_read_once():
    labeller, pairs = Lengths(), make_pairs()
    for pair in pairs:
        pair.second_utility = math.log(2) * len(pair.second)
    labels = Asker(labeller).read(pairs)
    assert labeller.read == 6
    assert labels == pytest.approx(of_lists(PROMPTS, FIRST, SECOND))
    assert [pair.first_utility for pair in pairs] == labeller.utility(PROMPTS, FIRST)


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="judge: got 'judge'; give a function"):
        Asker("judge", setting="judge")
    with pytest.raises(ConfigError, match=r"cannot be called with \(prompts, first, second\)"):
        Asker(lambda text: 1.0)
    with pytest.raises(ConfigError, match="a queue answers rounds later"):
        Asker(FileQueue(tmp_path)).read(make_pairs())
    with pytest.raises(ConfigError, match=r"labels: <lambda> cannot be called with \(prompt, first, second\)"):
        as_labeller("labels", lambda first, second: 1.0)
    with pytest.raises(ConfigError, match=r"labels: got .*FileQueue.*give a function of .*give its folder"):
        as_labeller("labels", FileQueue(tmp_path))


def test_a_queue_is_asked_once_and_its_last_word_counts(tmp_path):
    queue, buffer = FileQueue(tmp_path / "queue"), Buffer(most_pending=4)
    asker = Asker(queue)
    for _ in range(2):  # as when a run resumes
        asker.ask(make_pairs(), 1)
    buffer.wait_for(make_pairs())
    assert len((queue.folder / "questions.jsonl").read_text().splitlines()) == 6
    assert (len(buffer.pending), buffer.counts.given_up) == (4, 2)
    names = [pair.id for pair in make_pairs()]
    lines = [{"id": names[0], "label": 1.0}, {"id": names[3], "label": 0.0}, {"id": names[3], "label": 0.25}]
    (queue.folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    buffer.arrived(asker.collect(buffer.pending))
    assert [(pair.id, pair.label) for pair in buffer.take()] == [(names[3], 0.25)]  # the first was given up
    (queue.folder / "labels.jsonl").write_text(json.dumps({"id": names[4], "label": 2}) + "\n")
    with pytest.raises(DataError, match=r"got 2\.0; a preference lies in"):
        asker.collect(buffer.pending)


def test_what_a_response_was_said_to_be_is_the_mean_over_its_pairs():
    pairs = [Pair("", "p", "x", "y", label=0.75, first_utility=2.0, second_utility=1.0, place=Place(0, 0, 1)),
             Pair("", "p", "x", "z", label=0.25, first_utility=2.0, place=Place(0, 0, None)),
             Pair("", "p", "x", "z", label=0.9)]  # fmt: skip  # of an earlier round
    assert label_means(pairs, 2, 2) == [[0.5, 0.25], [None, None]]
    assert utilities(pairs, 2, 2) == [[2.0, 1.0], [None, None]]
