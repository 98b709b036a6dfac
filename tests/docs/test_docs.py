"""What the documentation says can be typed: commands parse, targets and links exist, public names are explained."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from foresighted.api.arguments import configured
from foresighted.cli.main import parser
from foresighted.cli.options import given, places
from foresighted.settings import CompareConfig, RehearseConfig, TrainConfig
from foresighted.settings.rehearse import usual

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "foresighted"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```console\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def _text(name: str) -> str:
    path = ROOT / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    assert text.strip(), f"{name} is absent or empty"
    return text


def _commands(path: Path) -> list[list[str]]:
    """Return the words of each command in a page's console blocks, `\\` at a line's end joined, NAME=VALUE dropped."""
    found = []
    for block in FENCE.finditer(path.read_text(encoding="utf-8")) if path.is_file() else ():
        for line in re.sub(r"\\\n\s*(?:> )?", " ", block.group(2)).splitlines():
            if line.strip().startswith("$ "):
                words = shlex.split(line.strip()[2:], comments=True)
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words.pop(0)
                found.append(words)
    return found


COMMANDS = [(path.relative_to(ROOT).as_posix(), words) for path in PAGES for words in _commands(path)]


def _of(program: str) -> list[object]:
    at = [(page, words[1:]) for page, words in COMMANDS if words[:1] == [program]]
    return [pytest.param(words, id=f"{page}: {' '.join([program, *words])}") for page, words in at]


@pytest.mark.parametrize("words", _of("foresighted"))
def test_foresighted_commands_parse(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    if {"--help", "--help-all", "-h", "--version"} & set(words):
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args(words)
        return
    try:
        args = parser().parse_args(words)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    kind = {"train": TrainConfig, "compare": CompareConfig, "rehearse": RehearseConfig}.get(args.command)
    if kind and args.config is None:  # values are checked where settings are merged
        more = {"usual": usual} if kind is RehearseConfig else {}
        configured(kind, given(args, kind), **places(args), **more)


@pytest.mark.parametrize("words", _of("make"))
def test_make_targets_exist(words: list[str]):
    targets = set(re.findall(r"^([\w-]+)\s*:(?!=)", _text("Makefile"), re.MULTILINE))
    asked = {word for word in words if "=" not in word and not word.startswith("-")}
    assert asked <= targets, f"the Makefile has no target {', '.join(sorted(asked - targets))}"


@pytest.mark.parametrize("words", _of("pip"))
def test_extras_exist(words: list[str]):
    extras = set(tomllib.loads(_text("pyproject.toml"))["project"]["optional-dependencies"])
    asked = {name for word in words for found in re.findall(r"\[([\w,-]+)\]", word) for name in found.split(",")}
    assert asked <= extras, f"pyproject.toml has no extra {', '.join(sorted(asked - extras))}"


def test_readme_names_commands():
    _text("README.md")
    named = {words[0] for page, words in COMMANDS if page == "README.md" and words}
    assert {"make", "foresighted"} <= named, "README.md: write commands as `$ ...` in ```console blocks"


def test_readme_links_exist():
    text = re.sub(r"^ *```.*?^ *```", "", _text("README.md"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)
    headings = {_slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    wrong = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        if not (ROOT / path).exists() if path else anchor not in headings:
            wrong.append(link)
    assert not wrong


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _undocumented(node: ast.AST, name: str) -> list[str]:
    lacking = [] if ast.get_docstring(node) else [name]  # type: ignore[arg-type]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return lacking
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            lacking += _undocumented(child, f"{name}.{child.name}")
    return lacking


@pytest.mark.slow
def test_public_names_have_docstrings():
    lacking = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        if text.strip() and not re.search(r"\._(?!_)", name):
            lacking += _undocumented(ast.parse(text), name)
    assert not lacking, f"no docstring: {', '.join(lacking)}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_pages_are_in_the_navigation(path: Path):
    page = path.relative_to(ROOT / "docs").as_posix()
    assert f": {page}\n" in _text("mkdocs.yml") or f"  {page}\n" in _text("mkdocs.yml"), f"mkdocs.yml lacks {page}"


def test_every_room_has_a_page():
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {path.stem for path in (ROOT / "docs" / "rooms").glob("*.md")} == rooms | {"shapes"}


@pytest.mark.slow
def test_the_picture_of_the_rooms_is_drawn_from_the_code():
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    drawn = house.picture(SOURCE)
    rooms = house.imports(SOURCE)
    assert "alignment" in rooms["cli"] | rooms["judging"]
    assert all(f'<tspan class="name">{room}</tspan>' in drawn for room in rooms)


def test_the_walks_name_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`([\w/]+\.py)(?::(\w+))?`", text[text.index("## Four walks") : text.index("## Style")])
    assert len(named) > 30
    for file, name in named:
        tree = ast.parse((SOURCE / file).read_text())
        has = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        has |= {ast.unparse(n.target) for n in tree.body if isinstance(n, ast.AnnAssign)}
        has |= {ast.unparse(t) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
        assert not name or name in has, f"{file} has no {name}"
