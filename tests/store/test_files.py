"""What is written is there whole or not at all."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest

from foresighted.store import files, records


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    files.write(path, "one \ud800")
    assert path.read_text() == "one ?"
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        part.write_text(str(1 / part.write_text("")))
    assert path.read_text() == "one ?"
    assert [inside.name for inside in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(ZeroDivisionError), files.new_folder(folder) as part:
        (part / "a").write_text(str(1 / (part / "b").write_text("")))
    assert not list(folder.parent.iterdir())
    for text in ("one", "two"):  # the second takes the place of the first
        with files.new_folder(folder) as part:
            (part / "inner").mkdir()
            (part / "inner" / "a").write_text(text)
            known = files.hashes(part)
    assert list(known) == ["inner/a"]
    assert (folder / "inner" / "a").read_text() == "two"
    assert files.damaged(folder, known) is None
    (folder / "inner" / "a").write_text("twO")
    assert files.damaged(folder, known) == folder / "inner" / "a"
    (folder / "inner" / "a").unlink()
    assert files.damaged(folder, known) == folder / "inner" / "a"


@pytest.mark.processes
def test_killed_while_it_fills_a_folder_the_next_one_starts_anew(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from foresighted.store import files\n"
        "with files.new_folder(Path(sys.argv[1])) as part: (part / 'stale').write_text('half'); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    with files.new_folder(tmp_path / "x") as part:
        (part / "fresh").write_text("whole")
    assert [inside.name for inside in (tmp_path / "x").iterdir()] == ["fresh"]
    assert not (tmp_path / "x.tmp").exists()


def test_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    files.drop_torn_line(path)
    files.append(path, "")
    assert not path.exists()
    files.append(path, "one\n")
    with path.open("a") as file:
        file.write("tw")
    files.drop_torn_line(path)
    files.append(path, "two\n")
    assert path.read_text() == "one\ntwo\n"


def test_what_was_pinned_is_known_again(tmp_path):
    files.append(tmp_path / records.ROUNDS, "one\n")
    pins = files.pinned(tmp_path, records.RECORD_FILES)
    assert pins.records == {records.CANDIDATES: 0, records.ROUNDS: 4, records.HELDOUT: 0}
    files.append(tmp_path / records.ROUNDS, "three\n")
    assert not pins.changed(tmp_path)
    assert pins.cut_back(tmp_path) == {records.ROUNDS: 6}
    assert (tmp_path / records.ROUNDS).read_text() == "one\n"
    assert not pins.changed(tmp_path)
    assert not pins.cut_back(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"one\ntwp\n", "first 8 bytes are not those"),
        (b"one\none\ntwo\n", "first 8 bytes are not those"),
        (b"one\n\ntwo\n", "first 8 bytes are not those"),
        (b"one\r\ntwo\r\n", "first 8 bytes are not those"),
        (b"two\n", "has 4 bytes, and had 8"),
        (b"", "has 0 bytes, and had 8"),
    ],
)
def test_what_is_not_as_it_was_pinned_is_named(tmp_path, data, words):
    path = tmp_path / records.ROUNDS
    files.append(path, "one\ntwo\n")
    pins = files.pinned(tmp_path, records.RECORD_FILES)
    path.write_bytes(data)
    assert words in pins.changed(tmp_path)
    assert str(path) in pins.changed(tmp_path)


def test_what_a_disk_refuses_names_the_file(tmp_path):
    path = tmp_path / "x"
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", str(files.temporary_of(path))),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),  # Arrow's
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors'
    ):
        with pytest.raises(OSError, match="No space left") as raised, files.named(path):
            raise error
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(ValueError, match="mine"), files.named(path):
        raise ValueError("mine")
