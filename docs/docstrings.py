"""Extension of griffe: docstrings are plain text, so a `*` or a `<` in a formula is shown, not read as Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe


def plain(text: str) -> str:
    """Return a docstring whose prose shows `*` and `<` as they stand; code, equations and examples are left alone."""
    lines: list[str] = []
    code = example = False
    before = ""
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            example = line == "Example:"
        indented = line.startswith("    ")
        if line.strip():
            code = indented and (code or not before)  # an indented block after an empty line
        keep = example or code or not line.strip()
        lines.append(line if keep else re.sub(r"(`[^`]*`)|([*<])", _shown, line))
        before = line.strip()
    return "\n".join(lines)


def _shown(found: re.Match[str]) -> str:
    return found.group(1) or {"*": "\\*", "<": "&lt;"}[found.group(2)]


class PlainDocstrings(griffe.Extension):
    """Apply `plain` to every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        """Change the docstring of an object that was just read."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)
