"""The page as a file: complete, self-contained, safe against hostile text."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markupsafe import escape

from foresighted.alignment.compared import headline
from foresighted.alignment.comparison import summarise
from foresighted.errors import DataError
from foresighted.reporting import write_picture, write_report
from foresighted.reporting.charts import Chart, Point, Series
from foresighted.reporting.picture import svg
from foresighted.reporting.samples import Answer, Question, Samples, read_samples, shown_prompts, shown_rounds, words_of
from foresighted.statistics.wording import number
from foresighted.store import records
from foresighted.store.directory import arm_directory, kind_of
from foresighted.store.rows import read

KINDS = ("comparison", "evaluation", "audited")
ODD_ARM = "<i>$odd_{\"'&"


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

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(comparison: Path, evaluation: Path, audited: Path) -> dict[str, str]:
    made = {}
    for name, directory in (("comparison", comparison), ("evaluation", evaluation), ("audited", audited)):
        path = write_report(directory)
        assert path == directory / "report.html"
        made[name] = path.read_text()
    return made


def payload(page: str) -> dict[str, Any]:
    """Return what the page's script reads."""
    found = re.search(r'<script type="text/plain" id="payload">([^<]*)</script>', page)
    assert found
    unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return unpacked


def headings(page: str) -> list[str]:
    return re.findall(r"<h[12][^>]*>(.*?)</h[12]>", page)


def test_contents_of_a_comparison_in_order(pages: dict[str, str]) -> None:
    found = headings(pages["comparison"])
    assert found[0].startswith("rlhf and 2 other arms")
    of_audit = ("Which prompts fall first", "Symptoms that need no labels")
    assert [title for title in found[1:] if title not in of_audit] == [
        "At a glance", "Summary", "Against the baseline", "Where the two part", "In training",
        "Calibration of the reward model", "What the answers look like", "Labels", "Answers side by side",
        "All responses", "Configuration", "Environment",
    ]  # fmt: skip
    names = set(payload(pages["comparison"])["charts"])
    assert names >= {
        "utility", "reward", "difference", "gap", "kl", "penalty-chosen", "overconfidence", "reliability", "tokens",
        "distinct-2", "budget", "audit-calibration-ece",
    }  # fmt: skip
    assert 'class="stamp alarm">Audit: collapsed' in pages["comparison"]


def opening(page: str) -> str:
    """Return what stands above the list of contents."""
    assert page.index('<nav aria-label="On this page">') < page.index('class="findings"') < page.index('id="summary"')
    return page[page.index("<main") : page.index("<nav")]


def words(page: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the rows of the first screen's table: heading, and arm, text and utility of each answer."""
    table = page[page.index('<table class="moments') :]
    rows = re.findall(r'<tr data-round="\d+">(.*?)</tr>', table[: table.index("</table>")], re.DOTALL)
    return [
        (
            " ".join(Page(row[: row.index("</th>")]).text.split()),
            [
                (html.unescape(place), html.unescape(text), utility)
                for place, text, utility in re.findall(
                    r'<td[^>]*data-label="([^"]*)">.*?<p(?: class="said")?>(.*?)</p>'
                    r'(?:<p class="scores">utility <strong>(.*?)</strong></p>)?',
                    row,
                    re.DOTALL,
                )
            ],
        )
        for row in rows
    ]


def test_the_first_screen_has_curves_sentence_and_words(pages: dict[str, str], comparison: Path) -> None:
    page = pages["comparison"]
    first = opening(page)
    assert re.findall(r'data-chart="([\w-]+)"', first) == ["utility", "reward"]
    assert page.count('data-chart="utility"') == 1
    assert str(escape(headline(summarise(comparison)))) in first
    assert "number <span" in first
    assert "a rule fixed before any outcome" in first
    prompt = shown_prompts(f"p{i}" for i in range(12))[0]
    assert f"Question {prompt[1:]}?" in first
    found = words(page)
    assert [heading for heading, _ in found] == ["round 0 start", "round 10 middle", "round 20 end"]
    plan = ["rlhf", "practical:gamma=0.3", ODD_ARM]
    assert [[arm for arm, _, _ in answers] for _, answers in found] == [
        ["frozen policy"], plan, plan,
    ]  # fmt: skip
    for round_, (_, answers) in zip((0, 10, 20), found, strict=True):
        for arm, (_, text, utility) in zip(plan, answers, strict=False):
            rows = read(arm_directory(comparison, arm, 0) / records.HELDOUT, records.HeldoutRow)
            row = next(row for row in rows if (row.round, row.prompt_id) == (round_, prompt))
            assert utility == number(row.utility)
            assert text.split()[-1] == row.text.split()[-1]
            if arm == "rlhf":
                assert "<script>window.hacked=1</script>" in text


def test_contents_of_an_evaluation(pages: dict[str, str]) -> None:
    found = headings(pages["evaluation"])
    assert found[0] == "2 policies against base, judged on 30 prompts"
    assert "At a glance" not in found
    assert pages["evaluation"].index("<nav") < pages["evaluation"].index("<main")
    assert {"Summary", "Who wins", "On which prompts", "All answers", "Configuration"} <= set(found)
    assert {"win-rate", "decided", "ratings", "categories-0"} <= set(payload(pages["evaluation"])["charts"])
    assert "better over base" in Page(pages["evaluation"]).text


def test_contents_of_an_audit(pages: dict[str, str]) -> None:
    found = headings(pages["audited"])
    assert found[0] == "Audit of out"
    assert {"Summary", "Calibration of the reward model", "Round by round", "What was read"} <= set(found)
    assert {"At a glance", "Where the two part"} <= set(found)
    first = opening(pages["audited"])
    assert re.findall(r'data-chart="([\w-]+)"', first) == ["audit-utility", "audit-reward"]
    assert "COLLAPSED (1 of 3 arms: rlhf)" in first
    assert 'id="words"' not in pages["audited"]
    assert "Responses that a person should look at first" in found
    assert {"audit-utility", "audit-reward", "audit-gap"} <= set(payload(pages["audited"])["charts"])


def test_verdict_and_table_say_what_the_summary_says(pages: dict[str, str], comparison: Path) -> None:
    text = " ".join(Page(pages["comparison"]).text.split())
    assert " ".join(summarise(comparison).sentences) in text
    assert "2 of 2" in text
    assert "0 of 2" in text


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_stays_text(pages: dict[str, str], kind: str) -> None:
    page = pages[kind]
    parsed = Page(page)
    assert [script.get("id") for script in parsed.all("script")] == ["library", "payload", None]  # ours
    assert page.count("</script") == 3
    assert not any(parsed.all(tag) for tag in ("img", "i", "b", "iframe"))
    assert not any(name.startswith("on") or name == "style" for _, attributes in parsed.tags for name in attributes)
    held = re.findall(r'<script type="text/plain" id="\w+">(.*?)</script>', page, re.DOTALL)
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]+", text) for text in held)
    shown = {"comparison": "<i>$odd_{", "audited": "<i>$odd_{", "evaluation": "odd <b>"}[kind]
    assert shown in parsed.text
    data = payload(page)["responses"]
    assert any("<script>window.hacked=1</script>" in text for text in data["columns"]["text"])


@pytest.mark.parametrize("kind", KINDS)
def test_self_contained(pages: dict[str, str], kind: str) -> None:
    parsed = Page(pages[kind])
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "base")
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)", pages[kind])
    assert "@import" not in pages[kind]
    policy = parsed.all("meta")[1]["content"] or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_has_words_and_a_table(pages: dict[str, str], kind: str) -> None:
    parsed = Page(pages[kind])
    places = [attributes for attributes in parsed.all("div") if "data-chart" in attributes]
    assert {place["data-chart"] for place in places} == set(payload(pages[kind])["charts"])
    assert len(places) == len(parsed.all("figure")) == pages[kind].count("<details><summary>Data")
    for place in places:
        assert place["role"] == "img"
        assert len(place["aria-label"] or "") > 40


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_unique_and_known(pages: dict[str, str], kind: str) -> None:
    parsed = Page(pages[kind])
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes["href"] or "")[1:] for _, attributes in parsed.tags if "href" in attributes}
    links |= {attributes["aria-labelledby"] for _, attributes in parsed.tags if "aria-labelledby" in attributes}
    assert links <= set(ids)


def test_last_round_shows_without_script_and_in_print(pages: dict[str, str]) -> None:
    rounds = [attributes for attributes in Page(pages["comparison"]).all("div") if "data-round" in attributes]
    assert [(one["data-round"], one["class"]) for one in rounds] == [
        ("10", "round"), ("20", "round shown last"),
    ]  # fmt: skip


def test_samples_follow_a_rule_blind_to_outcomes(comparison: Path) -> None:
    samples = read_samples(comparison, summarise(comparison))
    assert samples is not None
    chosen = shown_prompts(f"p{i}" for i in range(12))
    assert len(chosen) == 8
    assert chosen == shown_prompts(f"p{i}" for i in reversed(range(12)))
    for questions in samples.rounds.values():
        assert [question.prompt for question in questions] == [f"Question {prompt[1:]}?" for prompt in chosen]
        assert [answer.index for answer in questions[0].answers] == [None, 0, 1, 2]


@pytest.mark.parametrize(
    ("rounds", "middle"), [([10], []), ([10, 20], [10]), ([10, 20, 30], [10]), ([1, 2, 3, 4, 20], [4])]
)
def test_the_middle_is_the_nearest_shown_round_and_absent_answers_are_said(
    rounds: list[int], middle: list[int]
) -> None:
    def answer(heading: str, index: int | None, round_: int) -> Answer:
        return Answer(heading, index, f"{heading} {round_}", "1", "2", 3)

    def question(round_: int) -> Question:
        late = (answer("late", 1, round_),) if round_ == rounds[-1] else ()
        return Question("Why?", "", (answer("before", None, 0), *late, answer("first", 0, round_)))

    found = words_of(Samples(7, 0, {round_: (question(round_),) for round_ in rounds}))
    assert (found.seed, found.prompt, found.arms) == (7, "Why?", (("first", 0), ("late", 1)))
    assert [(one.name, one.round) for one in found.moments] == [
        ("start", 0), *(("middle", round_) for round_ in middle), ("end", rounds[-1]),
    ]  # fmt: skip
    texts = [[one and one.text for one in moment.answers] for moment in found.moments]
    last = rounds[-1]
    assert texts == [["before 0"], *([f"first {one}", None] for one in middle), [f"first {last}", f"late {last}"]]


def test_many_rounds_are_sampled_evenly() -> None:
    assert shown_rounds([10, 20, 30]) == [10, 20, 30]
    many = shown_rounds(list(range(1, 101)))
    assert len(many) == 10
    assert many[-1] == 100
    assert {b - a for a, b in itertools.pairwise(many)} == {10}


@pytest.mark.slow
def test_writes_the_same_page_again_and_leaves_no_parts(comparison: Path, pages: dict[str, str]) -> None:
    assert write_report(comparison).read_text() == pages["comparison"]
    assert not list(comparison.glob("*.part")) + list(comparison.glob(".*.part"))


@pytest.mark.slow
def test_no_utility(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.NO_UTILITY}, seeds=[0], rounds=20)
    text = write_report(out).read_text()
    assert "only proxy reward is known" in text
    assert "True utility, held out" not in text
    assert re.findall(r'data-chart="([\w-]+)"', opening(text)) == ["reward"]
    assert [utility for _, answers in words(text) for _, _, utility in answers] == ["unknown"] * 3
    assert {"reward", "kl"} <= set(payload(text)["charts"])
    assert write_picture(out, tmp_path / "picture.png").exists()


def test_unfinished_arm_and_one_prompt(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    arms = {name: {**synthetic.STEADY, "prompts": 1} for name in ("rlhf", "practical", "exact")}
    out = synthetic.write_comparison(
        tmp_path / "out", arms, seeds=[0], rounds=20, skip=[("exact", 0)], cut={("practical", 0): 10}
    )
    text = write_report(out).read_text()
    assert "practical (unfinished, round 10)" in text
    assert "interval unknown" in text
    assert "exact, seed 0 (nothing evaluated yet)" in text
    assert [[text for _, text, _ in answers][-1] for _, answers in words(text)] == [
        "An answer. 0 after 0", "An answer. 0 after 10", "no answer recorded",
    ]  # fmt: skip


def test_single_run_directory(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    synthetic.write_run(tmp_path / "run", seed=0, rounds=20, **synthetic.FALLING)
    text = write_report(tmp_path / "run").read_text()
    assert "rlhf: one arm of iterative RLHF" in text
    assert "against rlhf" not in text
    assert "Against the baseline" not in text
    assert "rlhf collapsed in 1 of 1 seed." in opening(text)
    assert [[arm for arm, _, _ in answers] for _, answers in words(text)] == [["frozen policy"], ["rlhf"], ["rlhf"]]
    assert "Environment" not in text


def test_before_the_first_round(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], cut={("rlhf", 0): 0})
    text = write_report(out).read_text()
    assert "before training (round 0)" in text
    assert "nothing can be said about collapse yet" in text
    assert "too early to say anything about collapse" in opening(text)
    assert [(heading, len(answers)) for heading, answers in words(text)] == [("round 0 start", 1)]


def test_a_failure_leaves_the_old_page(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], rounds=10)
    before = write_report(out).read_text()
    (arm_directory(out, "rlhf", 0) / records.HELDOUT).unlink()
    with pytest.raises(DataError):
        write_report(out)
    assert (out / "report.html").read_text() == before


def test_odd_candidates_are_shown_as_far_as_they_go(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "run"
    synthetic.write_run(out, seed=0, rounds=10, **synthetic.FALLING)
    least = {"round": 1, "prompt_id": "p", "prompt": "Why?", "text": "So."}
    lines = [least, least | {"reward": float("nan"), "label": "yes"}, least | {"reward": 10**400, "text": None}]
    (out / records.CANDIDATES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = payload(write_report(out).read_text())["responses"]["columns"]
    assert columns["text"][-3:] == ["So.", "So.", "None"]
    (out / records.CANDIDATES).write_text(
        json.dumps({"round": "one", "prompt_id": "p", "prompt": "", "text": ""}) + "\n"
    )
    with pytest.raises(DataError, match="line 1: round is 'one', no whole number"):
        write_report(out)


def test_a_page_that_cannot_be_written(audited: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_report(audited, tmp_path / "absent" / "page.html")
    assert not list(tmp_path.iterdir())


def test_another_place_and_files_as_paths(audited: Path, evaluation: Path, tmp_path: Path) -> None:
    path = write_report(audited / "audit.json", tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert path.read_text().startswith("<!doctype html>")
    assert kind_of(evaluation / "evaluation.json") == kind_of(evaluation) == "evaluation"


def test_paths_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is there"):
        write_report(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="holds something else; give a directory of train"):
            write_report(path)


@pytest.mark.slow
def test_picture(comparison: Path, tmp_path: Path) -> None:
    path = write_picture(comparison, tmp_path / "chart.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000
    assert [one.name for one in tmp_path.iterdir()] == ["chart.png"]


@pytest.mark.parametrize(("points", "edge"), [(5, "0"), (300, "1.5")], ids=["with markers", "lines alone"])
def test_the_legend_of_a_picture_can_be_seen_and_is_not_frayed(points: int, edge: str) -> None:
    line = tuple(Point(float(x), float(x), None, None) for x in range(points))
    drawn = svg([Chart("name", "Title", "x", "y", (Series("rlhf", 0, line), Series("practical", 1, line)))])
    symbols = re.findall(r'role-legend-symbol"[^>]*><path [^>]*stroke-width="([\d.]+)"', drawn)
    assert symbols == [edge, edge]


@pytest.mark.slow
def test_texts_of_a_megabyte_leave_a_page_small(synthetic, tmp_path):
    out = synthetic.write_comparison(tmp_path / "mb", {"rlhf": synthetic.FALLING}, seeds=[0], rounds=20)
    path = arm_directory(out, "rlhf", 0) / records.HELDOUT
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {"text": "<b>word " * 125_000, "prompt": "p " * 10_000}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "environment.json").write_text(json.dumps({"python": "x" * 10**7}))
    page = write_report(out).read_text()
    assert len(page) < 5_000_000
    assert "more characters)" in page
    assert len(opening(page)) < 30_000
