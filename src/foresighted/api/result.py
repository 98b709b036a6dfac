"""What every call gives back: sentences, tables, a picture, a directory; it shows itself in a notebook."""

from __future__ import annotations

import base64
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from foresighted.errors import ConfigError, DataError, nearest
from foresighted.statistics.intervals import Interval, Share

if TYPE_CHECKING:
    from foresighted.reporting.page import Page

_ROWS = 12
"""Rows of the main table that a notebook shows."""


class Plot:
    """One picture: a notebook shows it, `save` writes it.

    Args:
        kinds: suffix of a file, `.png` among them, to what makes its bytes.
    """

    def __init__(self, kinds: Mapping[str, Callable[[], bytes]]) -> None:
        self._kinds = kinds

    def save(self, path: str | Path) -> Path:
        """Write the picture, as the file's suffix says: .png, .svg or .html.

        Raises:
            ConfigError: another suffix.
        """
        path = Path(path)
        if path.suffix not in self._kinds:
            raise ConfigError(f"path: got {str(path)!r}, expected a name that ends in {', '.join(self._kinds)}")
        path.write_bytes(self._kinds[path.suffix]())
        return path

    def _repr_png_(self) -> bytes:
        return self._kinds[".png"]()


class Result(ABC):
    """Base of all results.

    Args:
        directory: where its records lie; None where nothing was written.
    """

    main: ClassVar[str]
    """Name of the table that a notebook shows."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    @property
    @abstractmethod
    def sentences(self) -> tuple[str, ...]:
        """What was seen, in words."""

    @cached_property
    @abstractmethod
    def tables(self) -> dict[str, Any]:
        """Every table by name, as pandas frames."""

    @classmethod
    @abstractmethod
    def read(cls, directory: str | Path) -> Self:
        """Read what lies in a directory."""

    @abstractmethod
    def write(self, directory: str | Path) -> Path:
        """Write to another directory what `read` reads."""

    @abstractmethod
    def plot(self, name: str | None = None) -> Plot:
        """Return the main charts, or the chart of a name.

        Raises:
            ConfigError: no chart of this name; the message has those that there are.
        """

    def __repr__(self) -> str:
        """Return the sentences."""
        return "\n".join([f"{type(self).__name__} ({self.directory or 'not written'})", *self.sentences])

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(text)}</li>" for text in self.sentences)
        rows = self.tables[self.main].head(_ROWS).dropna(axis="columns", how="all")
        table = rows.to_html(escape=True, index=False, na_rep="", float_format="%.4g")
        try:
            data = base64.b64encode(self.plot()._repr_png_()).decode()
            picture = f'<img style="max-width: 100%" alt="the main charts" src="data:image/png;base64,{data}">'
        except (ConfigError, ImportError) as error:
            picture = f"<p>No picture: {escape(str(error))}</p>"
        where = escape(str(self.directory)) if self.directory else "not written"
        wide = f'<div style="overflow-x: auto">{table}</div>'
        return f"<div><b>{type(self).__name__}</b> ({where})<ul>{said}</ul>{picture}{wide}</div>"


class FromFile(Result):
    """A result whose numbers are `data`, one JSON file in its directory.

    Args:
        data: the numbers.
        directory: where the file lies; None where nothing was written.
    """

    @staticmethod
    @abstractmethod
    def reader(path: Path) -> Any:
        """Return the numbers from that file, or from the directory that holds it."""

    def __init__(self, data: Any, directory: Path | None = None) -> None:
        super().__init__(directory)
        self.data = data

    @classmethod
    def read(cls, directory: str | Path) -> Self:
        """Read the file, or the directory that holds it.

        Raises:
            DataError: it cannot be read.
        """
        path = Path(directory)
        return cls(cls.reader(path), path if path.is_dir() else path.parent)


def copied(source: Path, directory: str | Path, *leave: str) -> Path:
    """Copy a directory to a new one, but for what is named like one of `leave`; return it.

    Raises:
        DataError: the new directory is not empty.
    """
    to = Path(directory)
    if to.exists() and any(to.iterdir()):
        raise DataError(f"directory: {to} is not empty; give a new one")
    return shutil.copytree(source, to, ignore=shutil.ignore_patterns(*leave), dirs_exist_ok=True)


def plot_of(page: Page, name: str | None) -> Plot:
    """Return charts of a report page as a picture: the first two of its first section with any, or one by name."""
    from dataclasses import replace

    from foresighted.reporting.page import render
    from foresighted.reporting.picture import png, svg

    sections = page.charted
    known = {chart.name: (section, (chart,)) for section in sections for chart in section.charts}
    if not sections or (name is not None and name not in known):
        there = f"; there are {', '.join(known)}" if known else ", nothing is to be drawn"
        raise ConfigError(f"plot: no chart {name or 'at all'}{nearest(name or '', known)}{there}")
    section, charts = (sections[0], sections[0].charts[:2]) if name is None else known[name]
    alone = replace(section, charts=charts, tables=(), points=())
    bare = replace(page, opening=None, sections=(alone,), samples=None, responses=None, texts=())
    return Plot({".png": lambda: png(charts), ".svg": lambda: svg(charts).encode(), ".html": lambda: render(bare)})


def frame(rows: Iterable[Any], **columns: Any) -> Any:
    """Return rows as a pandas frame: mappings, or dataclasses whose intervals become three columns.

    Args:
        rows: one a row of the frame.
        columns: constant columns that stand first.
    """
    import pandas as pd

    return pd.DataFrame([columns | (dict(row) if isinstance(row, Mapping) else flat(row)) for row in rows])


def joined(frames: Sequence[Any]) -> Any:
    """Return frames one below the other."""
    import pandas as pd

    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def flat(value: Any) -> dict[str, Any]:
    """Return a dataclass as one row: an interval is its mean, `_low` and `_high`; lists of parts are left out."""
    row: dict[str, Any] = {}
    for field in fields(value):
        name, item = field.name, getattr(value, field.name)
        if isinstance(item, Interval | Share):
            row |= {name: item.mean, f"{name}_low": item.low, f"{name}_high": item.high}
        elif is_dataclass(item):
            row |= {f"{name}_{part}": one for part, one in flat(item).items()}
        elif not (isinstance(item, tuple) and any(map(is_dataclass, item))):
            row[name] = item
    return row
