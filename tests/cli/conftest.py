from __future__ import annotations

import pytest

from foresighted.settings import to_yaml


@pytest.fixture
def config_file(tiny, tmp_path):
    """The tiny configuration as a file for --config."""
    path = tmp_path / "tiny.yaml"
    path.write_text(to_yaml(tiny))
    return path


@pytest.fixture
def foresighted(capsys):
    """Run the command line in this process; return exit code, standard output and standard error."""
    from foresighted.cli.main import main

    def run(*arguments: object):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
