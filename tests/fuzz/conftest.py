"""Generated inputs: how many are tried, and what is counted of them.

A test takes the fixture `tally`, makes one for its kind, and gives each input that Hypothesis makes to `command` (the
command line), `call` (a function) or `add`. `FUZZ_EXAMPLES` is the number of inputs a test (`make fuzz` sets it high);
without it there is a bounded run, the same inputs every time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Inputs a test; 0: the bounded run, the same inputs every time."""
OUTCOMES = ("read", "refused", "traceback", "exit 70", "silent wrong")
"""Accepted and right; one true line and exit code 2; and what must not happen."""

_quick = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES or 20,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=_quick,
    print_blob=bool(EXAMPLES),
)
settings.load_profile("fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.campaign)


class Tally:
    """Counts of what became of a kind's inputs."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.counts = dict.fromkeys(OUTCOMES, 0)

    def add(self, outcome: str) -> None:
        """Count one input."""
        self.counts[outcome] += 1

    def call(self, function: Callable[..., Any], *arguments: Any, right: Callable[[Any], bool], **named: Any) -> None:
        """Call a function of the package: its result is `right`, or it raises a `ForesightedError` of one line."""
        from foresighted.errors import ForesightedError

        try:
            result = function(*arguments, **named)
        except ForesightedError as error:
            self._refused(str(error))
            return
        except Exception:
            self.add("traceback")
            raise
        self.add("read" if right(result) else "silent wrong")
        assert right(result), result

    def command(self, arguments: Sequence[str], capsys: Any, *, codes: Sequence[int] = (0,)) -> tuple[int, str]:
        """Run the command line in this process; return its exit code and stderr.

        Exit code 2 with one line on stderr counts as refused, one of `codes` as read; anything else fails the test.
        """
        from foresighted.cli.main import main

        try:
            code = main(list(arguments))
        except SystemExit as leaving:  # argparse
            code = int(leaving.code or 0)
        except BaseException:
            self.add("traceback")
            raise
        said = capsys.readouterr().err
        if code == 2:
            self._refused(said)
        elif code in codes:
            self.add("read")
        else:
            self.add("exit 70" if code == 70 else "silent wrong")
            pytest.fail(f"exit code {code}: {said}")
        return code, said

    def _refused(self, said: str) -> None:
        lines = [line for line in said.strip().split("\n") if line]
        fine = bool(lines) and not re.search(r"Traceback \(most recent|[\x00-\x08\x0b-\x1f\x7f\x9b]", said)
        self.add("refused" if fine else "silent wrong")
        assert fine, said
        assert "\n" not in lines[-1]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str], Tally]:
    """Make the tally of a kind; its counts go into the table at the end of the run."""

    def make(kind: str) -> Tally:
        made = Tally(kind)
        request.node.user_properties.append(("fuzz", [kind, made.counts]))  # filled while the test runs
        return made

    return make
