"""A queue in a folder: what people wrote there counts by stated rules, whoever wrote and in whatever order."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from foresighted.alignment.run import train
from foresighted.errors import ConfigError, DataError
from foresighted.labels import waiting
from foresighted.labels.answers import Answer, labels_of, skipped_of, standing
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Pair, pair_id
from foresighted.labels.queue import FileQueue, Question
from foresighted.store import records
from foresighted.store.rows import read


def question(n: int, number: int = 1) -> Question:
    texts = f"prompt {n}", f"one {n}", f"other {n}"
    return Question(pair_id(number, *texts), number, *texts)


def pair(n: int) -> Pair:
    return Pair(question(n).id, *list(asdict(question(n)).values())[2:])


def labels(answers: list[Answer]) -> dict[str, float]:
    return labels_of(standing(answers))


def test_which_answers_count():
    said = [
        Answer("x", 1.0, "ann"), Answer("x", 0.0, "bob"), Answer("x", 0.0, "ann", "swapped"),
        Answer("y", 0.0), Answer("y", 1.0),  # by hand: the later line counts
        Answer("z", 1.0, "ann"), Answer("z", None, "ann", undone=True),
        Answer("s", None, "ann"), Answer("t", None, "ann"), Answer("t", 0.5, "bob"),
        Answer("u", 1.0, "ann"), Answer("u", None, "ann", undone=True), Answer("u", 0.0, "ann"),
    ]  # fmt: skip
    assert labels(said) == {"x": 0.25, "y": 1.0, "t": 0.5, "u": 0.0}  # ann counts half of x, and bob half
    assert skipped_of(standing(said)) == {"s"}
    assert list(standing(said))[-1] == ("u", "ann", "new")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "a"}', r"line 2: expected .*got \['id'\]"),
        ('{"id": "a", "label": "1"}', "line 2: label '1' is text"),
        ('{"id": "a", "label": 1.5}', r"line 2: got 1\.5; a preference lies"),
        ('{"id": "a", "label": 1, "by": 3}', "line 2: by is 3; expected text"),
        ('{"id": "a", "label": true}', "line 2: label is True"),
        ("[1]", "line 2: not a JSON object"),
    ],
)
def test_a_line_that_is_no_answer_is_named(tmp_path, line, told):
    queue = FileQueue(tmp_path)
    (tmp_path / "labels.jsonl").write_text('{"id": 7, "label": 1}\n' + line + "\n")
    for _ in range(2):
        with pytest.raises(DataError, match=f"labels.jsonl, {told}"):
            queue.collect()
    (tmp_path / "labels.jsonl").write_text('{"id": 7, "label": 1}\n{"id": "a", "la')  # torn: not yet there
    assert [answer.id for answer in queue.answers()] == ["7"]


def test_a_queue_is_read_as_it_grows_and_when_it_was_edited(tmp_path, caplog):
    queue = FileQueue(tmp_path / "people")
    assert queue.collect() == {}
    queue.submit([question(0), question(1)])
    with (tmp_path / "people" / "questions.jsonl").open("a") as file:
        file.write('{"id": "torn')  # a run died while it asked
    queue.submit([question(1), question(2)])
    assert list(queue.questions()) == [question(n).id for n in range(3)]
    queue.answer([Answer(question(2).id, 1.0, "ann")])
    queue.answer([Answer(question(0).id, 0.5, "ann"), Answer("of nobody", 1.0)])
    assert queue.collect() == {question(2).id: 1.0, question(0).id: 0.5}
    assert [record.getMessage() for record in caplog.records if "of no question" in record.getMessage()]
    path = tmp_path / "people" / "labels.jsonl"
    path.write_text(path.read_text().replace("0.5", "1.0"))
    assert queue.collect()[question(0).id] == 1.0
    path.unlink()
    assert queue.collect() == {}


def test_folders_and_names(tmp_path, tiny):
    assert isinstance(Asker(f"{tmp_path}/people/").queue, FileQueue)
    assert isinstance(Asker(tmp_path).queue, FileQueue)
    with pytest.raises(ConfigError, match=r"got 'peple'; give a function of .*FOLDER/"):
        Asker("peple")
    (tmp_path / "config.yaml").write_text("policy: embedded\n")
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="holds a run; give a folder of its own"):
        Asker(tmp_path)


def test_what_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "POLL", 0.01)
    queue = FileQueue(tmp_path)
    asker, pending = Asker(queue), {pair(n).id: pair(n) for n in range(4)}
    asker.ask(list(pending.values()), 1)
    assert waiting.arrivals(asker, pending) == {}
    looks = iter(range(100))

    def people() -> bool:
        turn = next(looks)
        if turn < 3:
            queue.answer([Answer(question(turn).id, None if turn == 1 else 1.0, "ann")])
        return False

    found = waiting.arrivals(asker, pending, at_least=2, stopping=people)
    assert set(found) == {question(0).id, question(2).id}
    queue.answer([Answer(question(3).id, None, "ann")])  # all are answered or skipped: there is nothing to wait for
    assert waiting.arrivals(asker, pending, at_least=4) == found
    with pytest.raises(KeyboardInterrupt):
        waiting.arrivals(Asker(FileQueue(tmp_path / "other")), pending, at_least=1, stopping=lambda: True)


@pytest.mark.slow
def test_a_run_asks_waits_stops_and_goes_on(tmp_path, tiny, monkeypatch):
    """People answer a round late and out of order; the run is stopped while it waits, and resumed."""
    monkeypatch.setattr(waiting, "POLL", 0.01)
    queue = FileQueue(tmp_path / "people")
    config = replace(tiny, labels=f"{tmp_path}/people/", rounds=4, wait_for_labels=2, reward_model_buffer=-1)
    answered: set[str] = set()
    stopped: list[int] = []

    def people(stopping) -> None:
        open_ = [q for q in queue.questions().values() if q.id not in answered]
        newest = max((q.round for q in open_), default=0)
        if newest == 3 and not stopped:
            stopped.append(newest)
            raise KeyboardInterrupt  # Ctrl-C while it waits
        for q in reversed(open_):
            answered.add(q.id)
            queue.answer([Answer(q.id, float(len(q.first) < len(q.second)), "ann", seconds=1.0)])

    monkeypatch.setattr(waiting, "_wait", people)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    rows = read(tmp_path / "run" / records.ROUNDS, records.RoundRow)
    questions = list(queue.questions().values())
    assert {q.round for q in questions} == {0, 1, 2, 3, 4}
    assert len({q.id for q in questions}) == len(questions)  # nothing was asked twice
    assert [row.labels_total for row in rows] == [len([q for q in questions if q.round <= n]) for n in range(1, 5)]
    assert all(row.reward_model_loss is not None for row in rows)
    state = json.loads(next(Path(tmp_path / "run" / "checkpoints").glob("round-000004/state.json")).read_text())
    assert (len(state["kept"]), state["pending"]) == (len(questions), [])


@pytest.mark.slow
def test_a_run_goes_on_without_and_keeps_what_waits(tmp_path, tiny):
    queue = FileQueue(tmp_path / "people")
    config = replace(tiny, labels=f"{tmp_path}/people/", rounds=2, initial_pairs=0)
    train(config, tmp_path / "run")
    rows = read(tmp_path / "run" / records.ROUNDS, records.RoundRow)
    assert [(row.labels_total, row.reward_model_loss) for row in rows] == [(0, None), (0, None)]
    queue.answer([Answer(name, 1.0, "ann") for name in reversed(queue.questions())])
    train(replace(config, rounds=3), tmp_path / "run", resume=True)
    row = read(tmp_path / "run" / records.ROUNDS, records.RoundRow)[-1]
    assert row.labels_total == len([q for q in queue.questions().values() if q.round < 3])
    assert row.reward_model_loss is not None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steering": "relaxed"}, "steering relaxed reads labels in the round; use steering_labels baseline"),
        ({"selection": "labels"}, "selection labels"),
        ({"sampled_labels": True}, "people give bits"),
        ({"rollback_window": 3}, "rollback_window 3"),
        ({"labels": "likelihood", "wait_for_labels": 2}, "wait_for_labels: got 2, and likelihood labels at once"),
    ],
)
def test_what_people_cannot_answer_in_time_is_refused(tmp_path, tiny, settings, told):
    config = replace(tiny, **{"labels": f"{tmp_path}/", "steering": "practical", **settings})
    with pytest.raises(ConfigError, match=told):
        waiting.check_late(config, Asker(tmp_path if config.labels.endswith("/") else lambda *_: [], setting="labels"))


@pytest.mark.processes
@pytest.mark.parametrize("side_by_side", [2, 1])
def test_runs_of_a_comparison_ask_in_one_folder(tmp_path, tiny, monkeypatch, start_foresighted, side_by_side):
    from foresighted.alignment.compare import compare
    from foresighted.settings import CompareConfig, to_yaml

    queue = FileQueue(tmp_path / "people")
    base = replace(tiny, labels=f"{tmp_path}/people/", rounds=2, wait_for_labels=2 if side_by_side == 2 else 0)
    if side_by_side == 1:  # processes of their own: nobody here to answer while they wait
        base = replace(base, initial_pairs=0)

    def people(_stopping) -> None:
        known = {answer.id for answer in queue.answers()}
        queue.answer([Answer(q.id, 1.0, "ann") for q in queue.questions().values() if q.id not in known])

    monkeypatch.setattr(waiting, "_wait", people)
    config = CompareConfig(train=base, arms=("rlhf", "practical:gamma=0.5"), seeds=(0,), side_by_side=side_by_side)
    if side_by_side == 2:
        compare(config, tmp_path / "out")
    else:
        (tmp_path / "c.yaml").write_text(to_yaml(config))
        process = start_foresighted("compare", "--config", tmp_path / "c.yaml", "--out", tmp_path / "out", "--quiet")
        assert process.wait() == 0, process.stderr
    rows = [read(path, records.RoundRow) for path in sorted((tmp_path / "out").rglob("rounds.jsonl"))]
    questions = list(queue.questions().values())
    assert [len(own) for own in rows] == [2, 2]
    assert sum(q.round == 1 for q in questions) < 4 + 4  # the first round's candidates are the same in both arms
    if side_by_side == 2:
        assert all(own[-1].labels_total >= 3 + 2 + 2 for own in rows)
