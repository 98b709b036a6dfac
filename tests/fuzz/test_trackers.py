"""Trackers' files with bytes that are flipped, cut or doubled: read, or one line; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foresighted.auditing.sources import read_log

WRITTEN = Path(__file__).parents[1] / "data" / "trackers"


@pytest.mark.parametrize("pattern", ["wandb/*/*.wandb", "tensorboard/*/*", "trackio/*.db"])
@given(data=st.data())
def test_damaged_files_are_metrics_or_one_line(pattern, data, tmp_path, tally):
    (file,) = WRITTEN.glob(pattern)
    damaged = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "double"]))
        if what == "flip":
            damaged[place] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del damaged[place : place + data.draw(st.integers(1, 4000))]
        else:
            damaged[place:place] = damaged[place : place + 30]
        damaged = damaged or bytearray(b"\n")
    path = tmp_path / file.name
    path.write_bytes(damaged)
    tally("trackers: damaged bytes").call(read_log, path, {}, right=lambda log: log.source.rows > 0)


@given(lines=st.lists(st.text(max_size=80) | st.from_regex(r"step:\d{1,30} - [a-z/]{1,5}:[-0-9.e]{1,12}"), max_size=5))
def test_console_logs_are_metrics_or_one_line(lines, tmp_path, tally):
    path = tmp_path / "run.log"
    path.write_text("step:1 - reward:0.5\n" + "\n".join(lines) + "\n", "utf-8", "replace")
    tally("trackers: console logs").call(read_log, path, {}, right=lambda log: log.source.rows > 0)
