"""`foresighted.report`: the page of a result, or of what lies in a directory."""

from __future__ import annotations

from pathlib import Path

from foresighted.api.arguments import Place, path_of
from foresighted.api.audit import Audit
from foresighted.api.compare import Comparison
from foresighted.api.evaluate import Evaluation
from foresighted.api.rehearse import Rehearsal
from foresighted.api.result import Result
from foresighted.errors import ConfigError
from foresighted.store.directory import records_of, what_to_read


def report(what: Result | Place, out: Place | None = None) -> Path:
    """Write one self-contained HTML page; what `foresighted report` writes.

    Args:
        what: a result, or the directory of one; also the output directory of a trainer with `FPOReward`.
        out: the file to write; None for `report.html` in that directory.

    Returns:
        The path of the page.

    Raises:
        DataError: the records cannot be read.
        ConfigError: `out` is no file name in a directory that exists, or the result was not written anywhere.
    """
    from foresighted.reporting import write_report

    if isinstance(what, Result) and what.directory is None:
        raise ConfigError("report: the result lies in no directory; call its write(DIRECTORY) first, and give that")
    path = path_of("report", what.directory if isinstance(what, Result) else what)
    page = None if out is None else path_of("out", out)
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise ConfigError(f"out: got {page}, expected a file name in a directory that exists, for example page.html")
    return write_report(path, page)


def read(path: Place) -> Evaluation | Audit | Comparison:
    """Return the result that lies in a directory; a run is read as a comparison of one arm.

    Raises:
        DataError: nothing lies there.
    """
    records = records_of(Path(path))
    kinds: dict[str, type[Evaluation | Audit | Comparison]]
    kinds = {"evaluation": Evaluation, "audit": Audit, "comparison": Comparison, "rehearsal": Rehearsal}
    return kinds[what_to_read(records)].read(records)
