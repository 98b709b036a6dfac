"""The page in a real browser: 200 pairs by keyboard while the server is killed 20 times, and what learns from them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("fastapi")

import torch

from foresighted.alignment.run import train
from foresighted.integrations.trl import FPOConfig, FPOReward
from foresighted.labels.answers import standing
from foresighted.labels.pair import pair_id
from foresighted.labels.queue import FileQueue, Question
from foresighted.store import records
from foresighted.store.rows import read

pytestmark = pytest.mark.browser

ERROR = 0.1
"""Share of pairs in which the simulated person says the wrong thing."""
HOSTILE = (
    "</div></section><script>window.hacked=1</script><img src=x onerror=window.hacked=2>\u202e\u2066\x00"
    + "\u0301" * 90
)
EVERYTHING = "(() => [...document.querySelectorAll('#one, #two')].map(box => box.textContent))()"


class Served:
    """`foresighted label`, which can be killed and is then started again."""

    def __init__(self, port: int, *words: str) -> None:
        script = Path(__file__).with_name("serving.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), *words, "--port", str(port)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        pid, _, self.address = self._process.stdout.readline().strip().partition(" ")
        self.pid = int(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def served(free_port) -> Iterator[Any]:
    made: list[Served] = []

    def start(*words: object) -> Served:
        made.append(Served(free_port(), *map(str, words)))
        return made[-1]

    yield start
    for one in made:
        one.close()


class Person:
    """Somebody at the keyboard who prefers the longer response, but for a known share of mistakes."""

    def __init__(self, chromium: Any, served: Served, name: str = "ann", **options: Any) -> None:
        self.served, self._chance, self._turn = served, random.Random(0), 0
        self.page = chromium.new_context(**options).new_page()
        self.said: list[str] = []
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto(served.address)
        self.ready()
        if self.page.locator("#start").is_visible():
            self.page.fill("#name", name)
            self.press("Enter")

    def ready(self) -> None:
        self._turn += 1
        self.page.wait_for_selector(f"html[data-ready='{self._turn}']", timeout=60_000)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.ready()

    def label(self, count: int, kills: int = 0) -> None:
        """Label pairs, while the server dies at drawn moments."""
        deaths = set(self._chance.sample(range(count), kills))
        for turn in range(count):
            one, two = self.page.evaluate(EVERYTHING)
            right = "1" if len(one) > len(two) else "2"
            wrong = self._chance.random() < ERROR
            before = turn in deaths and self._chance.random() < 0.5
            if before:
                self.served.kill()
            self.page.keyboard.press({"1": "2", "2": "1"}[right] if wrong else right)
            if turn in deaths:
                if not before:
                    self.served.kill()
                self.served.start()
            self.ready()


@pytest.mark.campaign
def test_200_pairs_by_keyboard_through_20_kills_and_both_trainers_learn(tmp_path, chromium, served, tiny, tiny_deberta):
    people = tmp_path / "people"
    config = replace(
        tiny, labels=f"{people}/", rounds=5, prompts_per_round=5, candidates=4, initial_pairs=0,
        reward_model_pairs="all", reward_model_buffer=-1, reward_model_steps=5, reward_model_learning_rate=1e-2,
        checkpoint_every=5, heldout_every=5,
    )  # fmt: skip
    train(config, tmp_path / "run")
    asked = len(FileQueue(people).questions())
    prompts = [f"Question {n}?" for n in range(200 - asked) for _ in range(2)]
    words = random.Random(1)
    texts = [
        " ".join(words.choices(("sky", "rain", "wind", "snow"), k=1 + n % 2 * 5)) + f" {n}" for n in range(len(prompts))
    ]
    trainer = FPOConfig(reward_model_learning_rate=1e-2, reward_model_steps=20)
    fpo = FPOReward(str(tiny_deberta), trainer, f"{people}/")
    begin = SimpleNamespace(device=torch.device("cpu"), output_dir=str(tmp_path), num_generations=2, should_save=True)
    fpo.on_train_begin(
        begin, SimpleNamespace(global_step=0, log_history=[]), None, model=SimpleNamespace(training=True),
        processing_class=None,
    )  # fmt: skip
    fpo(prompts, texts)
    queue = FileQueue(people)
    assert len(queue.questions()) == 200

    person = Person(chromium, served(people, "--both-orders", 0, "--again", 0))
    person.label(200, kills=20)
    assert person.page.locator("#done").is_visible()
    assert person.said == []
    found = standing(queue.answers())
    assert len(queue.answers()) == len(found) == len({a.id for a in queue.answers()}) == 200  # all once, none lost
    longer = {
        q.id: float(len(q.first) > len(q.second)) for q in queue.questions().values() if len(q.first) != len(q.second)
    }
    labels = queue.collect()
    wrong = sum(labels[name] != right for name, right in longer.items())
    assert 8 <= wrong <= 35
    assert all(a.seconds is not None for a in found.values())

    train(replace(config, rounds=6), tmp_path / "run", resume=True)
    row = read(tmp_path / "run" / records.ROUNDS, records.RoundRow)[-1]
    assert row.labels_total == asked
    assert row.reward_model_loss is not None
    before = list(fpo.follower.rewards(prompts, texts))
    fpo(prompts, texts)
    assert fpo.follower.buffer.counts.labels_trained == 200 - asked
    after = list(fpo.follower.rewards(prompts, texts))
    assert _won(after) > max(_won(before), 0.7)  # the longer response of each pair


def _won(rewards: list[float]) -> float:
    return sum(b > a for a, b in zip(rewards[::2], rewards[1::2], strict=True)) / (len(rewards) / 2)


@pytest.fixture
def hostile(tmp_path) -> Path:
    folder = tmp_path / "hostile"
    texts = [
        (f"{n} {HOSTILE}", f"{n} \u05d0\u05d1 {HOSTILE} " + "word " * 400, "" if n == 1 else f"{n} plain")
        for n in range(4)
    ]
    FileQueue(folder).submit([Question(pair_id(1, *row), 1, *row) for row in texts])
    (tmp_path / "rules.md").write_text(
        "# Rules\n\n- help\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[more](https://example.org)\n"
    )
    return folder


def test_accessible_inert_and_within_its_boxes(hostile, chromium, served):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    one = served(hostile, "--guidelines", hostile.parent / "rules.md")
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")):
        view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "bypass_csp": True}
        person = Person(chromium, one, **view)
        page = person.page
        shown = page.evaluate(EVERYTHING)
        assert any(HOSTILE in text for text in shown)  # verbatim
        assert page.evaluate("window.hacked") is None
        assert page.locator("img, #pair script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.evaluate("[...document.querySelectorAll('.text')].map(b => [b.clientWidth, b.scrollWidth])")
        assert all(inside >= outside for inside, outside in boxes)
        found = axe.Axe().run(page).response["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found] == [], (width, scheme)
        assert person.said == []
        page.context.close()


def test_keys_buttons_and_what_is_taken_back(hostile, chromium, served):
    person = Person(chromium, served(hostile, "--both-orders", 0, "--again", 0, "--shared", 0))
    page, queue = person.page, FileQueue(hostile)
    first = page.evaluate(EVERYTHING)
    person.press("0")
    assert page.evaluate("document.activeElement.id") == "prompt-title"  # where a screen reader goes on
    assert "a tie" in page.text_content("#say")
    page.get_by_role("button", name="Skip").click()
    person.ready()
    person.press("u")
    person.press("u")
    assert page.evaluate(EVERYTHING) == first
    assert queue.collect() == {}
    page.uncheck("#keys")
    page.keyboard.press("1")
    page.check("#keys")
    page.keyboard.press("Control+1")
    assert queue.collect() == {}
    page.get_by_role("button", name="2 is better").click()
    person.ready()
    assert len(queue.collect()) == 1
    page.reload()
    person._turn = 0
    person.ready()
    assert "1 answered, 3 to go" in page.text_content("#progress")
    for key in "112":
        person.press(key)
    assert page.locator("#done").is_visible()
