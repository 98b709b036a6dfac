"""Agreement of people: against numbers from the literature, naive twins and simulated people of known error."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from foresighted.statistics.agreement import alpha, error_of, shift, worth
from foresighted.statistics.intervals import wilson_share


def naive(units):
    """Alpha by its definition: every couple of labels of a pair, and every couple of labels at all."""
    several = [own for own in units if len(own) > 1]
    every = [label for own in several for label in own]
    within = sum(sum((a - b) ** 2 for a, b in itertools.permutations(own, 2)) / (len(own) - 1) for own in several)
    among = sum((a - b) ** 2 for a, b in itertools.permutations(every, 2))
    return 1 - (within / len(every)) / (among / (len(every) * (len(every) - 1)))


def test_alpha_is_its_definition_and_the_literatures_number():
    chance = random.Random(0)
    units = [[chance.choice((0.0, 0.5, 1.0)) for _ in range(chance.randint(1, 4))] for _ in range(60)]
    found = alpha(units)
    assert found.mean == pytest.approx(naive(units))
    assert found.low < found.mean < found.high
    assert -0.2 < found.mean < 0.2
    # Krippendorff (2011), section A: two observers, ten units, 14 zeros, 6 ones, 4 disagreements: alpha = .095
    binary = [(float(a), float(b)) for a, b in zip("0100000000", "1110010010", strict=True)]
    assert alpha(binary).mean == pytest.approx(0.095, abs=1e-3)
    assert alpha([(1.0, 1.0), (0.0, 0.0)]).mean == 1.0
    assert alpha([(1.0, 1.0), (1.0, 1.0)]) is None
    assert alpha([(1.0, 0.0), (1.0,)]) is None


@pytest.mark.slow
def test_alpha_covers_and_errors_come_out_of_agreement():
    random_ = np.random.default_rng(1)
    error, inside = 0.15, 0
    truth = 1 - 2 * error * (1 - error) / 0.5  # of bits that are as often 0 as 1
    for seed in range(100):
        right = random_.integers(0, 2, 80)
        units = [(r ^ (random_.random() < error), r ^ (random_.random() < error)) for r in right]
        found = alpha(units, seed=seed)
        inside += found.low <= truth <= found.high
    assert inside >= 88
    assert error_of((1 - error) ** 2 + error**2) == pytest.approx(error)
    assert error_of(0.3) == 0.5
    assert worth(error) == pytest.approx(0.49)


def test_a_shift_is_newcombes():
    # Newcombe (1998), table II, example (a): 56/70 - 48/80: method 10 gives .0524 to .3339
    found = shift(wilson_share(48, 80), wilson_share(56, 70))
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
