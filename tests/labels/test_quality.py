"""What answers say of labels: simulated people of known error, bias and drift are found out."""

from __future__ import annotations

import random

from foresighted.labels.answers import Answer
from foresighted.labels.quality import quality


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
