"""The page: complete, self-contained, safe against hostile text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from foresighted import records
from foresighted.errors import DataError
from foresighted.evaluate.comparison import summarise
from foresighted.report import write_picture, write_report
from foresighted.report.samples import read_samples, shown_prompts

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\x00\u202e LONE-SURROGATE $x_{1"


class Page(HTMLParser):
    """Tags with attributes, and text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def directory(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = {
        "rlhf": {**synthetic.FALLING, "text": HOSTILE},
        "practical:gamma=0.3": synthetic.STEADY,
        "<i>$odd_{": synthetic.FLAT,
    }
    out: Path = synthetic.write_comparison(tmp_path_factory.mktemp("page") / "out", arms, seeds=[0, 1])
    heldout = records.arm_directory(out, "rlhf", 0) / records.HELDOUT
    # Valid JSON that UTF-8 cannot hold: another program may have written it.
    heldout.write_text(heldout.read_text().replace("LONE-SURROGATE", r"\ud800"))
    return out


@pytest.fixture(scope="module")
def page(directory: Path) -> str:
    path = write_report(directory)
    assert path == directory / "report.html"
    return path.read_text()


def test_contents_in_order(page: str) -> None:
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    assert headings[0].startswith("rlhf and 2 other arms")
    assert headings[1:] == [
        "Summary", "What was meant and what was measured", "Where the two part", "In training",
        "What the answers look like", "Answers side by side", "Labels", "Configuration", "Environment",
    ]  # fmt: skip
    assert page.count('class="chart"') == 8


def test_verdict_and_table_say_what_the_summary_says(page: str, directory: Path) -> None:
    comparison = summarise(directory)
    text = " ".join(Page(page).text.split())
    assert " ".join(comparison.sentences()) in text
    assert "2 of 2" in text
    assert "0 of 2" in text


def test_hostile_text_stays_text(page: str) -> None:
    parsed = Page(page)
    assert sum(tag == "script" for tag, _ in parsed.tags) == 1  # ours
    assert not any(tag in ("img", "i", "b") for tag, _ in parsed.tags)
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert "<script>alert(1)</script>" in parsed.text
    assert "<i>$odd_{" in parsed.text
    assert "<b>verbatim</b>" in parsed.text


def test_self_contained(page: str) -> None:
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "base")
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_ids_are_unique_and_known(page: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_last_round_shows_without_script_and_in_print(page: str) -> None:
    rounds = [attributes for tag, attributes in Page(page).tags if tag == "div" and "data-round" in attributes]
    assert [(one["data-round"], one["class"]) for one in rounds] == [
        ("10", "round"), ("20", "round"), ("30", "round"), ("40", "round shown last"),
    ]  # fmt: skip


def test_samples_follow_a_rule_blind_to_outcomes(directory: Path) -> None:
    samples = read_samples(directory, summarise(directory))
    assert samples is not None
    chosen = shown_prompts(f"p{i}" for i in range(12))
    assert len(chosen) == 8
    assert chosen == shown_prompts(f"p{i}" for i in reversed(range(12)))
    for shown in samples.rounds:
        assert [question.prompt for question in shown.questions] == [f"Question {prompt[1:]}?" for prompt in chosen]
        assert [answer.index for answer in shown.questions[0].answers] == [None, 0, 1, 2]


def test_writes_the_same_page_again_and_leaves_no_parts(directory: Path, page: str) -> None:
    assert write_report(directory).read_text() == page
    assert not list(directory.glob("*.part")) + list(directory.glob(".*.part"))


def test_no_utility(synthetic: ModuleType, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.NO_UTILITY}, seeds=[0], rounds=20)
    text = write_report(out).read_text()
    assert "only proxy reward is known" in text
    assert "True utility, held out" not in text
    assert text.count('class="chart"') == 6
    assert write_picture(out, tmp_path / "picture.png").exists()


def test_unfinished_arm_and_one_prompt(synthetic: ModuleType, tmp_path: Path) -> None:
    arms = {name: {**synthetic.STEADY, "prompts": 1} for name in ("rlhf", "practical", "exact")}
    out = synthetic.write_comparison(
        tmp_path / "out", arms, seeds=[0], rounds=20, skip=[("exact", 0)], cut={("practical", 0): 10}
    )
    text = write_report(out).read_text()
    assert "practical (unfinished, round 10)" in text
    assert "interval unknown" in text
    assert "exact, seed 0 (nothing evaluated yet)" in text


def test_single_run_directory(synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.write_run(tmp_path / "run", seed=0, rounds=20, **synthetic.FALLING)
    text = write_report(tmp_path / "run").read_text()
    assert "rlhf: one arm of iterative RLHF" in text
    assert "less rlhf" not in text
    assert "Environment" not in text


def test_before_the_first_round(synthetic: ModuleType, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], cut={("rlhf", 0): 0})
    text = write_report(out).read_text()
    assert "before training (round 0)" in text
    assert "nothing can be said about collapse yet" in text


def test_a_failure_leaves_the_old_page(synthetic: ModuleType, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], rounds=10)
    before = write_report(out).read_text()
    (records.arm_directory(out, "rlhf", 0) / records.HELDOUT).unlink()
    with pytest.raises(DataError):
        write_report(out)
    assert (out / "report.html").read_text() == before


def test_picture(directory: Path, tmp_path: Path) -> None:
    path = write_picture(directory, tmp_path / "chart.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000
    assert [one.name for one in tmp_path.iterdir()] == ["chart.png"]
