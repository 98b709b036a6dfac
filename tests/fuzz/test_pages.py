"""Hostile names and texts in pages: what a page embeds reads back as it was, nothing ends a script, all stays small."""

from __future__ import annotations

import base64
import gzip
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from foresighted.reporting.charts import Chart, Point, Series, Table
from foresighted.reporting.page import LARGEST, Legend, Page, Section, render
from foresighted.reporting.responses import LONGEST, Response, pack

SPECIAL = (
    "\u2028", "\u2029", "\n", "\x00", "\x1b[2J", "\u202e", "\ud800", '"', "'", "\\", "{{ 1 }}", "{% raw %}", "${x}",
    "</script>",
    "<!--", "]]>", "<img src=x onerror=window.hacked=1>", "&amp;", ":key:", "[bold]", "datum.x", "@", "%s", "a.b[0]",
)  # fmt: skip
TEXT = st.lists(st.sampled_from(SPECIAL) | st.text(max_size=6), min_size=1, max_size=6).map("".join)
LONG = st.tuples(TEXT, st.sampled_from([1, 1, 1, 1000, 200_000])).map(lambda pair: pair[0] * pair[1])


def _page(names: list[str], texts: list[str], title: str) -> Page:
    series = tuple(
        Series(name, index, (Point(0.0, 1.0, 0.5, 1.5), Point(1.0, 2.0, None, None)))
        for index, name in enumerate(names)
    )
    kinds = ("line", "forest")
    charts = tuple(Chart(f"chart-{kind}", title, names[0], names[-1], series, kind=kind) for kind in kinds)
    table = Table(title, ("name", names[0]), tuple((name, title) for name in names))
    found = [
        Response("held out", names[i % len(names)], "0", i, names[0], text, names[-1], text, {"reward": 1.0}, note=text)
        for i, text in enumerate(texts)
    ]
    legend = tuple(Legend(name, index) for index, name in enumerate(names))
    section = Section("summary", title, title, charts, (table,), tuple(texts))
    return Page(
        title, (title, *names), legend, (section,), verdict=title, lead=title, responses=pack(found, names, names),
        texts=(("Configuration", "".join(texts)),),
    )  # fmt: skip


@given(
    names=st.lists(TEXT, min_size=1, max_size=4, unique=True), texts=st.lists(LONG, min_size=1, max_size=6), title=TEXT
)
def test_a_page_holds_what_it_was_given_and_nothing_else_runs(tally, names, texts, title):
    counts = tally("pages: hostile names and texts")
    page = _page(names, texts, title)

    def right(data: bytes) -> bool:
        html = data.decode()
        payload = re.search(r'id="payload">([A-Za-z0-9+/=]*)</script>', html)
        assert payload is not None
        found = json.loads(gzip.decompress(base64.b64decode(payload[1])))
        kept = [text[:LONGEST].encode("utf-8", "replace").decode() for text in texts]
        assert all(one.startswith(text) for one, text in zip(found["responses"]["columns"]["text"], kept, strict=True))
        assert not re.search("[\u2028\u2029\x00-\x1f]", json.dumps(found["charts"], ensure_ascii=False))
        assert html.count("</script>") == html.count("<script") == 3
        assert "<img" not in html
        return len(data) <= LARGEST

    counts.call(render, page, right=right)
