"""What is made once a user: kept whole, made again where it was changed, and each time where nothing can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from foresighted.errors import ConfigError
from foresighted.store.cache import cache_directory, made_once


@pytest.fixture
def make():
    """Makes the text, and counts how often."""

    def make() -> str:
        make.times += 1
        return "one\ntwo"

    make.times = 0
    return make


def test_a_text_is_made_once_and_again_where_its_file_was_changed(tmp_path, monkeypatch, make):
    monkeypatch.setenv("FORESIGHTED_CACHE", str(tmp_path / "deep" / "cache"))
    assert [made_once("text", make), made_once("text", make), make.times] == ["one\ntwo", "one\ntwo", 1]
    (path,) = (tmp_path / "deep" / "cache").iterdir()
    for damage in (path.read_bytes()[:-1], b"", b"\xff\xfe", path.read_bytes().replace(b"one", b"own")):
        path.write_bytes(damage)
        make.times = 0
        assert [made_once("text", make), made_once("text", make), make.times] == ["one\ntwo", "one\ntwo", 1]


def test_where_nothing_can_be_kept_it_is_made_each_time(tmp_path, monkeypatch, make):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORESIGHTED_CACHE", str(tmp_path / "file"))
    assert [made_once("text", make), made_once("text", make), make.times] == ["one\ntwo", "one\ntwo", 2]


def test_a_user_without_a_home_folder_is_told(monkeypatch, make):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FORESIGHTED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(ConfigError, match="set FORESIGHTED_CACHE"):
        cache_directory()
    assert made_once("text", make) == "one\ntwo"
