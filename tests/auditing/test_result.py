"""An audit is written and read back as it was."""

from __future__ import annotations

import json

import pytest

from foresighted.auditing.audit import audit
from foresighted.auditing.result import read_audit, write_audit
from foresighted.errors import DataError
from foresighted.store.rows import plain


def test_there_and_back(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, prompts=12))
    path = write_audit(result, tmp_path / "out")
    assert path.name == "audit.json"
    assert read_audit(path) == read_audit(tmp_path / "out")
    assert plain(read_audit(path)) == plain(result)
    json.dumps(plain(result), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"format": 1}', "write it again"),
        ('{"format": 2}', "damaged"),
    ],
)
def test_damage_is_named(tmp_path, text, words):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_audit(tmp_path)


def test_absence_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_audit(tmp_path / "audit.json")
