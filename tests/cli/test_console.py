"""What a terminal is shown: texts as they stand, and nothing that steers it."""

from __future__ import annotations

import io

from rich.table import Table

from foresighted.api.progress import Bars, Console

HOSTILE = "a:on:b [bold]x[/bold] [link=http://x]y :warning: \x1b[2J\x1b]0;owned\x07\x9b31m\u202eend"
SHOWN = "a:on:b [bold]x[/bold] [link=http://x]y :warning:  [2J ]0;owned  31m end"


def _printed(*parts) -> str:
    written = io.StringIO()
    to = Console(file=written, force_terminal=True, width=200, color_system=None)
    for part in parts:
        to.print(part, highlight=False)
    return written.getvalue()


def test_texts_titles_and_cells_are_shown_as_they_stand():
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for text in (_printed(HOSTILE), _printed(table)):
        assert SHOWN in text
        assert not set("\x07\x9b\u202e") & set(text)
        assert "\x1b[2J" not in text
    assert _printed(table).count(SHOWN) == 3


def test_bars_show_names_as_they_stand(monkeypatch):
    bars = Bars(quiet=True, patience=0)
    bars.update(HOSTILE, 1, 2, HOSTILE)
    (task,) = bars._progress.tasks
    shown = bars._progress.make_tasks_table([task])
    text = _printed(shown)
    assert "[bold]x[/bold]" in text
    assert "\x1b[2J" not in text
