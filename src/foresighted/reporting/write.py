"""From a path to its page: what it holds, and where the page goes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from foresighted.auditing.result import AUDIT, read_audit
from foresighted.errors import DataError
from foresighted.judging.result import read_evaluation
from foresighted.judging.rows import EVALUATION
from foresighted.reporting.audit import audit_page
from foresighted.reporting.comparison import comparison_page
from foresighted.reporting.evaluation import evaluation_page
from foresighted.reporting.page import Page, write
from foresighted.store.records import HELDOUT, ROUNDS

REPORT = "report.html"
CONFIG = "config.yaml"
TRAINER_FOLDER = "foresighted"
"""Where FPOReward keeps its records inside a trainer's output directory."""


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the page of a run, a comparison, an evaluation or an audit, atomically.

    Args:
        path: a directory of `foresighted train`, `compare`, `evaluate` or `audit --out`, or the `evaluation.json` or
            `audit.json` in it.
        out: the file to write; None for `report.html` in that directory.

    Returns:
        The path of the page.

    Raises:
        DataError: the records cannot be read, for example because nothing was evaluated yet.
        ConfigError: `config.yaml` cannot be read.
    """
    path = records_of(path)
    directory = path.parent if path.is_file() else path
    return write(read_page(path), out or directory / REPORT)


def records_of(path: Path) -> Path:
    """Return the path itself, or the folder of records inside a trainer's output directory."""
    inside = path / TRAINER_FOLDER
    return inside if (inside / ROUNDS).exists() and not (path / ROUNDS).exists() else path


def read_page(path: Path) -> Page:
    """Return the page of what lies at a path.

    Raises:
        DataError: the records cannot be read.
        ConfigError: `config.yaml` cannot be read.
    """
    kind = kind_of(path)
    if kind == "evaluation":
        return evaluation_page(read_evaluation(path), path.parent if path.is_file() else path)
    return audit_page(read_audit(path)) if kind == "audit" else comparison_page(path)


def kind_of(path: Path) -> Literal["evaluation", "audit", "comparison"]:
    """Return what lies at a path; a run is a comparison of one arm, and its own records go before an audit of them.

    Raises:
        DataError: nothing lies there, or a file that is neither an evaluation nor an audit.
    """
    if path.is_file() and path.name not in (EVALUATION, AUDIT):
        raise DataError(f"{path}: not a file that report reads; give its directory, or {EVALUATION} or {AUDIT}")
    if not path.exists():
        raise DataError(
            f"{path}: cannot be read, nothing is there; give a directory of train, compare, evaluate or audit --out"
        )
    if path.is_dir() and not any((path / name).exists() for name in (EVALUATION, AUDIT, CONFIG, ROUNDS, HELDOUT)):
        raise DataError(
            f"{path}: holds no run, comparison, evaluation or audit; give a directory of train, compare, evaluate or"
            " audit --out, or the output_dir of a trainer with FPOReward"
        )
    if path.name == EVALUATION or (path / EVALUATION).exists():
        return "evaluation"
    if path.name == AUDIT or ((path / AUDIT).exists() and not (path / "config.yaml").exists()):
        return "audit"
    return "comparison"
