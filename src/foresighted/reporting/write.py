"""From a path to its page: what it holds, and where the page goes."""

from __future__ import annotations

from pathlib import Path

from foresighted.auditing.result import read_audit
from foresighted.judging.result import read_evaluation
from foresighted.reporting.audit import audit_page
from foresighted.reporting.comparison import comparison_page
from foresighted.reporting.evaluation import evaluation_page
from foresighted.reporting.page import Page, write
from foresighted.reporting.rehearsal import rehearsal_page
from foresighted.store.directory import records_of, what_to_read

REPORT = "report.html"


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the page of a run, a comparison, a rehearsal, an evaluation or an audit, atomically.

    Args:
        path: a directory of `foresighted train`, `compare`, `rehearse`, `evaluate` or `audit --out`, or the
            `evaluation.json` or `audit.json` in it.
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


def read_page(path: Path) -> Page:
    """Return the page of what lies at a path.

    Raises:
        DataError: the records cannot be read.
        ConfigError: `config.yaml` cannot be read.
    """
    kind = what_to_read(path)
    if kind == "evaluation":
        return evaluation_page(read_evaluation(path), path.parent if path.is_file() else path)
    if kind == "rehearsal":
        return rehearsal_page(path)
    return audit_page(read_audit(path)) if kind == "audit" else comparison_page(path)
