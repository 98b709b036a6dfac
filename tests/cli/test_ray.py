"""`foresighted serve --ray` and `foresighted owner ray:NAME`, as far as they go without Ray."""

from __future__ import annotations

import pytest

from foresighted.cli.main import main


def test_an_owner_in_ray_takes_its_settings_and_what_ray_keeps_for_it(tmp_path, capsys):
    (tmp_path / "owner.yaml").write_text("update_every: 7\ngpus: 2\n")
    words = ["serve", "--ray", "rewards", "--out", str(tmp_path / "x"), "--config", str(tmp_path / "owner.yaml")]
    assert main([*words, "--replicas", "3", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(line in said for line in ("update_every: 7", "gpus: 2", "replicas: 3"))
    assert "port" not in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["serve", "--gpus", "1"], ("gpus", "--ray NAME")),
        (["serve", "--address", "a:1"], ("address", "--ray NAME")),
        (["serve", "--ray", "r", "--port", "1"], ("port", "server", "leave it out")),
        (["serve", "--ray", "r", "--replicas", "-1"], ("replicas", "-1", "at least 0")),
        (["serve", "--ray", "r"], ("ray", "not installed here", "pip install")),
        (["owner", "status", "ray:r"], ("ray", "not installed here", "pip install")),
        (["owner", "rollback", "ray:r"], ("version", "got none")),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, expected, tmp_path, capsys, told):
    assert main([*words, *(["--out", str(tmp_path / "x")] if words[0] == "serve" else [])]) == 2
    told(capsys.readouterr().err, *expected)
    assert not (tmp_path / "x").exists()
