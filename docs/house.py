"""One picture of the rooms, drawn from the code: floors by who imports whom, a line for what no other line implies."""

from __future__ import annotations

import ast
import html
import textwrap
from pathlib import Path

BOX, HIGH, GAP, FLOOR = 152, 96, 8, 124


def _room(source: Path, path: Path) -> str:
    return path.relative_to(source).parts[0].removesuffix(".py")


def imports(source: Path) -> dict[str, set[str]]:
    """Return the rooms that each room imports from, wherever in its files."""
    found: dict[str, set[str]] = {}
    rooms = {_room(source, path) for path in source.rglob("*.py")} - {"__init__", "__main__"}
    for path in source.rglob("*.py"):
        room = _room(source, path)
        if room not in rooms:
            continue
        others = found.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foresighted"):
                parts = (node.module or "").split(".")
                others |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names} & rooms
        others.discard(room)
    return found


def _above(graph: dict[str, set[str]], room: str) -> set[str]:
    return graph[room].union(*(_above(graph, other) for other in graph[room]))


def _floors(graph: dict[str, set[str]]) -> dict[str, int]:
    floors: dict[str, int] = {}
    while len(floors) < len(graph):
        for room, others in graph.items():
            if room not in floors and others <= floors.keys():
                floors[room] = 1 + max((floors[other] for other in others), default=-1)
    return floors


def _purpose(source: Path, room: str) -> str:
    path = source / room / "__init__.py" if (source / room).is_dir() else source / f"{room}.py"
    said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
    return said.split(". ")[0].rstrip(".")


def _places(floors: dict[str, int], graph: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Return the middle of each box: a floor a row, in a row by where the rooms stand that it imports from."""
    places: dict[str, tuple[float, float]] = {}
    for floor in range(max(floors.values()) + 1):
        row = sorted(room for room in floors if floors[room] == floor)
        row.sort(key=lambda room: sum(places[o][0] for o in graph[room]) / len(graph[room]) if graph[room] else 0)
        step = BOX + GAP
        left = -step * (len(row) - 1) / 2
        for index, room in enumerate(row):
            places[room] = (left + step * index, HIGH / 2 + 10 + FLOOR * floor)
    return places


def picture(source: Path) -> str:
    """Return the rooms of a package as an SVG for a page: light and dark, with a text for those who cannot see it."""
    graph = imports(source)
    places = _places(floors := _floors(graph), graph)
    lines, boxes = [], []
    for room, others in sorted(graph.items()):
        x, y = places[room]
        for other in sorted(others - set().union(*(_above(graph, o) for o in others))):
            to_x, to_y = places[other]
            lines.append(
                f'<path d="M{x:.0f} {y - HIGH / 2:.0f} C{x:.0f} {y - HIGH / 2 - 24:.0f},'
                f'{to_x:.0f} {to_y + HIGH / 2 + 24:.0f},{to_x:.0f} {to_y + HIGH / 2:.0f}"/>'
            )
        words = textwrap.wrap(_purpose(source, room), 25)
        told = words if len(words) <= 5 else [*words[:4], f"{words[4]} ..."]
        text = "".join(f'<tspan x="{x:.0f}" dy="14">{html.escape(line)}</tspan>' for line in told)
        boxes.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - HIGH / 2:.0f}" width="{BOX}" height="{HIGH}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y - HIGH / 2 + 16:.0f}"><tspan class="name">{room}</tspan>{text}</text>'
        )
    half = BOX / 2 + 4 + max(x for x, _ in places.values())
    box = f"{-half:.0f} 0 {2 * half:.0f} {20 + HIGH + FLOOR * max(floors.values())}"
    told = "Rooms of the package; each imports only from rooms above it"
    head = f'<svg class="house" style="max-width: {2.2 * half:.0f}px" viewBox="{box}" role="img" aria-label="{told}">'
    return f"{head}{''.join(lines)}{''.join(boxes)}</svg>"
