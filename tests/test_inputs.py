"""What may be opened, and how a value is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foresighted.inputs import regular, shown


def test_only_a_regular_file_of_a_bounded_size_is_read(tmp_path):
    plain, fifo, sparse = tmp_path / "plain", tmp_path / "fifo", tmp_path / "sparse"
    plain.write_text("x")
    os.mkfifo(fifo)
    with sparse.open("wb") as file:
        file.truncate(6 << 30)
    assert regular(plain) == plain
    assert regular(sparse, most=None) == sparse
    for path, told in ((fifo, "a FIFO"), (Path("/dev/zero"), "a device"), (sparse, "6442450944 bytes")):
        with pytest.raises(OSError, match=told) as caught:
            regular(path)
        assert told in caught.value.strerror
    with pytest.raises(IsADirectoryError):
        regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "none")


def test_a_value_is_shown_in_a_few_words():
    laughs = "lol"
    for _ in range(12):
        laughs = [laughs] * 9
    for value in (laughs, "x" * 10**6, 10**5000, {"a": laughs}, [10**5000]):
        assert len(shown(value)) <= 60
    assert shown("five") == "'five'"
    assert shown(3) == "3"
    assert shown(["a", 1.5]) == "['a', 1.5]"
