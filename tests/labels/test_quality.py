"""What answers say of labels: simulated people of known error, bias and drift are found out."""

from __future__ import annotations

import random

import pytest

from foresighted.labels.answers import Answer
from foresighted.labels.quality import quality
from foresighted.labels.queue import FileQueue, Question


def said(chance, name, by, *, ask="new", error=0.1, bias=0.0, ties=0.0):
    """An answer of somebody to whom `first` is truly better, unless they err, tie, or take what stands first."""
    turned = chance.random() < 0.5
    label = 0.0 if chance.random() < error else 1.0
    if chance.random() < bias:
        label = 0.0 if turned else 1.0
    return Answer(name, 0.5 if chance.random() < ties else label, by, ask, turned, 3.0)


def test_people_of_known_error_bias_and_drift():
    chance = random.Random(0)
    answers = []
    for n in range(400):
        answers.append(said(chance, str(n), "ann"))
        answers.append(said(chance, str(n), "bob", bias=0.5, ties=0.0 if n < 200 else 0.4))
        if n % 4 == 0:
            answers.append(said(chance, str(n), "ann", ask="again"))
            answers.append(said(chance, str(n), "bob", ask="swapped", bias=0.5))
    answers.append(Answer("skipped", None, "ann", turned=True))
    found = quality(answers, 500)
    ann, bob = found.people
    assert (found.questions, found.labelled, ann.answered, ann.skipped) == (500, 400, 500, 1)
    assert ann.all.place.low < 0.5 < ann.all.place.high
    assert bob.all.place.low > 0.5
    assert 0.74 < ann.self_agreed.mean < 0.9  # .82
    assert bob.kept.total < 100  # ties decide nothing
    assert bob.drift["ties"].low > 0.3
    assert not ann.drift["ties"].excludes_zero
    told = " ".join(found.sentences)
    for words in (
        "agree in",
        "alpha is",
        "without errors",
        "bob prefers response 1 by its place",
        "bob has drifted: ties",
    ):
        assert words in told
    assert "ann prefers" not in told


def test_errors_of_two_alike_are_found_from_their_agreement():
    chance = random.Random(1)
    answers = [said(chance, str(n), by, error=0.2) for n in range(600) for by in ("ann", "bob")]
    found = quality(answers, 600)
    assert found.agreed.low < 0.68 < found.agreed.high
    assert "without errors" in found.sentences[1]


def test_one_person_nobody_and_lines_by_hand():
    assert quality([], 3) is None
    assert quality([Answer("a", None, "ann")], 3) is None
    found = quality([Answer("a", 1.0), Answer("b", 0.5)], 3)
    assert (found.people[0].name, found.alpha, found.agreed, found.labelled) == ("", None, None, 2)
    assert "nothing is known" in found.sentences[0]


def test_a_runs_audit_and_page_say_how_good_its_labels_are(tmp_path, monkeypatch, synthetic):
    pytest.importorskip("scipy")
    from foresighted.auditing.audit import audit
    from foresighted.auditing.result import read_audit, write_audit
    from foresighted.reporting import write_report

    monkeypatch.chdir(tmp_path)
    synthetic.write_run(tmp_path / "run", seed=0, rounds=30, **synthetic.STEADY)
    with (tmp_path / "run" / "config.yaml").open("a") as file:
        file.write("labels: people/\n")
    assert any("people/ is not here" in sentence for sentence in audit(tmp_path / "run").sentences)
    chance, queue = random.Random(2), FileQueue(tmp_path / "people")
    queue.submit([Question(str(n), 1, "p", "a", f"b {n}") for n in range(60)])
    queue.answer([said(chance, str(n), by) for n in range(50) for by in ("ann", "<b>bob</b>")])
    found = audit(tmp_path / "run")
    assert "Labels of people: 50 of 60 questions have a label, by 2 people." in found.sentences
    assert read_audit(write_audit(found, tmp_path / "out")) == found
    page = write_report(tmp_path / "run").read_text()
    assert "same response turned round" in page
    assert "<b>bob" not in page
    (tmp_path / "people" / "labels.jsonl").write_text("no JSON\n")
    assert any("labels.jsonl, line 1: not a JSON object" in sentence for sentence in audit(tmp_path / "run").sentences)
