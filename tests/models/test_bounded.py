"""What a stranger's file prescribes is stopped; a process that only waits is not."""

from __future__ import annotations

import signal
import time

import pytest

from foresighted.errors import ModelError
from foresighted.models import bounded


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(bounded, "SECONDS", 0.1)


def _endless():
    while True:
        pass


def _waits_and_works():
    time.sleep(0.3)  # as a process that is stopped, or starved
    _endless()


@pytest.mark.parametrize("work", [_endless, _waits_and_works])
def test_work_is_stopped(work):
    told = r"^a: matching takes more than 0.1 seconds; name the modules instead$"
    with pytest.raises(ModelError, match=told), bounded.bounded("a: matching", "name the modules instead"):
        work()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_waiting_is_not():
    with bounded.bounded("a", "b"):
        time.sleep(0.3)
