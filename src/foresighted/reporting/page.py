"""The page, whatever it is about: its parts as plain values, and one self-contained HTML text from them.

Every text of a record is hostile input. Text in the page is escaped by the template; specifications and responses
travel compressed and in base64, so that nothing of them can end a script element; scripts write text nodes only; and
the page's security policy lets no script run but the two whose hashes it names, and nothing load.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from foresighted import __version__
from foresighted.errors import DataError
from foresighted.reporting.charts import COLOURS, DASHES, MARKERS, Chart, Table, look_of, specification
from foresighted.reporting.responses import Responses, compact, cut
from foresighted.reporting.samples import Samples, Words
from foresighted.store.cache import made_once
from foresighted.store.directory import CONFIG
from foresighted.store.environment import ENVIRONMENT
from foresighted.store.files import replacing

MARKER_PATHS: Mapping[str, str] = {
    "circle": "M14 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "square": "M14.5 2.5h7v7h-7z",
    "triangle-up": "M18 1.5l4.5 8.5h-9z",
    "diamond": "M18 1l3.5 5l-3.5 5l-3.5 -5z",
    "triangle-down": "M18 10.5l4.5 -8.5h-9z",
    "cross": "M16.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "triangle-right": "M22.5 6l-8.5 4.5v-9z",
    "triangle-left": "M13.5 6l8.5 4.5v-9z",
}
"""The markers of the charts in a swatch of 36 by 12."""


@dataclass(frozen=True)
class Legend:
    """An arm (policy, reward model) as the page names it; `index` sets its look."""

    label: str
    index: int


@dataclass(frozen=True)
class Section:
    """Charts and tables under one heading. `id` is unique in the page; letters and hyphens."""

    id: str
    title: str
    note: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    points: tuple[str, ...] = ()
    """Sentences, as a list."""
    code: tuple[str, ...] = ()
    """Texts to be copied, verbatim."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.charts or self.tables or self.points or self.code)


@dataclass(frozen=True)
class Opening:
    """What a newcomer sees without scrolling.

    Attributes:
        sentence: what was compared, and how it ended.
        charts: the main ones, drawn low.
        words: one prompt's answers; None where there are none.
        note: what the charts mean.
        more: sentences that go with the first.
    """

    sentence: str
    charts: tuple[Chart, ...]
    words: Words | None = None
    note: str = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything that a page shows, as text and numbers.

    Attributes:
        title: heading and window title.
        sentences: what was seen, before any chart.
        legend: the arms, in the order of their looks.
        sections: charts and tables in order.
        verdict: a few words that stand out above all else; empty where there is none.
        lead: one sentence for somebody who reads nothing else; may be empty.
        alarm: whether the verdict is bad news.
        opening: the first screen, above the sentences; None for a page that begins with them.
        samples: held-out answers side by side.
        responses: what the response browser searches.
        texts: heading and verbatim text, last on the page.
    """

    title: str
    sentences: tuple[str, ...]
    legend: tuple[Legend, ...]
    sections: tuple[Section, ...]
    verdict: str = ""
    lead: str = ""
    alarm: bool = False
    opening: Opening | None = None
    samples: Samples | None = None
    responses: Responses | None = None
    texts: tuple[tuple[str, str], ...] = ()

    @property
    def charted(self) -> tuple[Section, ...]:
        """Everything that has charts, from the top; the first screen as a section of its own."""
        opening = self.opening
        first = (Section("opening", "At a glance", opening.note, opening.charts),) if opening else ()
        return tuple(section for section in (*first, *self.sections) if section.charts)


SHOWN, MOST_SHOWN = 6, 12
"""Findings that stand open where there are more than so many."""
LOW = 160
"""Pixels of the charts that share the first screen with words."""
SHORT = 300
"""Characters of an answer there."""


LARGEST = 5_000_000
"""Bytes that a page stays below, whatever its texts."""
_CUTS = (20_000, 4_000, 800, 160)
"""Characters that a text of the page may have: the first number that keeps the page small."""


def render(page: Page) -> bytes:
    """Return the page as HTML in UTF-8; the same page gives the same bytes."""
    ours = (files("foresighted.reporting") / "page.js").read_text("utf-8")
    ours += (files("foresighted.reporting") / "responses.js").read_text("utf-8")
    style = (files("foresighted.reporting") / "style.css").read_text("utf-8") + _arm_colours()
    sections = [section for section in page.sections if not section.empty]
    low = page.opening.charts if page.opening else ()
    charts = {chart.name: specification(chart, LOW) for chart in low}
    charts |= {chart.name: specification(chart) for section in sections for chart in section.charts}
    payload = {"charts": charts, "responses": page.responses.payload if page.responses else None}
    parts = {
        "page": page,
        "shown": SHOWN if len(page.sentences) > MOST_SHOWN else len(page.sentences),
        "sections": sections,
        "short": SHORT,
        "style": Markup(style),
        "script": Markup(ours),
        "library": Markup(_packed_library() if charts else ""),
        "payload": Markup(_base64(compact(payload))),
        "policy": _policy(scripts=(ours, library()) if charts else (ours,), style=style),
        "symbols": Markup("".join(_symbol(one.index) for one in page.legend)),
        "made_by": f"foresighted {__version__}; charts by Vega {vl_convert.get_vega_version()},"
        f" Vega-Lite {vl_convert.get_vegalite_versions()[-1]}, Vega-Embed {vl_convert.get_vega_embed_version()}",
    }
    made = (_filled(parts, most) for most in _CUTS)
    return next((data for data in made if len(data) <= LARGEST), None) or _filled(parts, _CUTS[-1])


def _filled(parts: Mapping[str, Any], most: int) -> bytes:
    """Return the template with its parts in place, no text of more than `most` characters."""
    environment = Environment(
        loader=PackageLoader("foresighted.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: cut(value, most) if type(value) is str else value,
    )
    environment.filters["cut"] = cut
    text = environment.get_template("template.html").render(**parts)
    # Records may hold a lone surrogate (JSON allows it); UTF-8 does not.
    return text.encode("utf-8", "replace")


def write(page: Page, path: Path) -> Path:
    """Write the page to `path`, atomically, and return it.

    Raises:
        DataError: it cannot be written.
    """
    data = render(page)
    try:
        with replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give another place with --out") from None
    return path


@lru_cache(maxsize=1)
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed, as vl-convert bundles them, as one classic script that sets
    `window.vegaEmbed` and nothing else. The first time takes about 3 seconds."""
    name = f"vega-{version('vl-convert-python')}.js"
    made = made_once(name, partial(vl_convert.javascript_bundle, "window.vegaEmbed = vegaEmbed;"))
    return f"(() => {{{made}}})();"


@lru_cache(maxsize=1)
def _packed_library() -> str:
    return _base64(gzip.compress(library().encode(), 9, mtime=0))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _hash(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _policy(*, scripts: tuple[str, ...], style: str) -> str:
    return (
        f"default-src 'none'; script-src {' '.join(_hash(one) for one in scripts)}; style-src {_hash(style)};"
        " base-uri 'none'; form-action 'none'"
    )


def _arm_colours() -> str:
    dark = ("#ff9450", "#5cb8f0", "#35d0a2", "#f09ac8", "#e8c04a", "#9dbcff", "#c3a8f5", "#b6bec6")
    pairs = zip(COLOURS, dark, strict=True)
    names = "".join(f" --arm-{i}: light-dark({light}, {night});" for i, (light, night) in enumerate(pairs))
    shown = "".join(f".arm-{i} {{ --arm: var(--arm-{i}); }}\n" for i in range(len(COLOURS)))
    return f":root {{{names} }}\n{shown}"


def _symbol(index: int) -> str:
    look = look_of(index)
    dash = " ".join(str(length) for length in DASHES[look.dash] if look.dash)
    colour, marker = f"var(--arm-{look.colour})", MARKER_PATHS[MARKERS[look.marker]]
    line = f'<path d="M0 6h36" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash or "none"}"/>'
    return f'<symbol id="swatch-{index}" viewBox="0 0 36 12">{line}<path d="{marker}" fill="{colour}"/></symbol>'


def kept_texts(directory: Path) -> tuple[tuple[str, str], ...]:
    """Return the configuration and the environment that a directory keeps, undecodable bytes replaced."""
    named = (("Configuration", directory / CONFIG), ("Environment", directory / ENVIRONMENT))
    return tuple((title, path.read_text("utf-8", "replace").rstrip()) for title, path in named if path.is_file())
