from __future__ import annotations

import pytest

from foresighted.errors import ConfigError
from foresighted.store.python_files import load_from_file


def _load(path, name="f"):
    return load_from_file("judge", f"{path}:{name}", "function", callable)


def test_an_object_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass F:\n    x: 'int' = 1\n\ndef f():\n    return F()\n"
    )
    assert _load(path)().x == 1
    path.write_text("def f():\n    return 2\n\ndef _hidden(): ...\n")
    assert _load(path)() == 2  # read anew
    with pytest.raises(ConfigError, match=r"has no function 'ff' \(did you mean 'f'\?\); it has f$"):
        _load(path, "ff")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", "fails with SyntaxError: invalid syntax"),
        ("raise RuntimeError('two\\nlines')\n", "fails with RuntimeError: two lines"),
        ("import nosuchmodule\n", "fails with ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("import sys\nsys.exit(4)\n", "fails with SystemExit: 4"),
        ("f = 5\n", "has no function 'f'; it has none"),
        ("x\0", "fails with"),
    ],
)
def test_a_file_that_fails_is_one_line(tmp_path, text, words):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        _load(path)
    assert str(caught.value).startswith(f"judge: {path} {words}")
    assert "\n" not in str(caught.value)


def test_what_names_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"judge: no file .*none\.py"):
        _load(tmp_path / "none.py")
    with pytest.raises(ConfigError, match=r"judge: got 'mine', expected FILE\.py:NAME"):
        load_from_file("judge", "mine", "function", callable)


def test_a_file_that_changed_is_run_as_it_is_now_and_leaves_no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    path = tmp_path / "own.py"
    for value in (1, 2):  # the same length, in the same second
        path.write_text(f"def said():\n    return {value}\n")
        assert load_from_file("labels", f"{path}:said", "function", callable)() == value
    assert [inside.name for inside in tmp_path.iterdir()] == ["own.py"]
