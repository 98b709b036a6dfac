"""Size of the page and time to open it, for a generated run with real English text.

Usage: python benchmarks/report_size.py [--candidates 10000] [--words 25 100 200]

Responses are random windows of the Python manual's own prose (`pydoc_data.topics`), prompts are the bundled ones. The
time to open is that of headless Chromium, from navigation until every chart is drawn; without Chromium it is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import pydoc_data.topics
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

import yaml

from foresighted.prompts import load_prompts
from foresighted.reporting import write_report
from foresighted.store import records
from foresighted.store.rows import append

PER_PROMPT, PROMPTS_A_ROUND, EVERY, HELDOUT_PROMPTS = 8, 4, 10, 24


def main() -> None:
    """Generate, write, open; print one row for each length of response."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--words", type=int, nargs="+", default=[25, 100, 200], help="words of a response")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print("candidates  words  records MB  on page  page MB  write s  open s")
    for words in args.words:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            _generate(out, args.candidates, words)
            size = sum(path.stat().st_size for path in out.glob("*.jsonl"))
            start = time.perf_counter()
            page = write_report(out)
            written = time.perf_counter() - start
            opened = _open(page)
            held = re.search(r"(?:All )?(\d+)(?: of \d+)? responses", page.read_text())
            assert held
            sizes = f"{size / 1e6:10.2f}  {held[1]:>7}  {page.stat().st_size / 1e6:7.2f}"
            print(f"{args.candidates:10}  {words:5}  {sizes}  {written:7.1f}  {opened}")


def _generate(out: Path, candidates: int, words: int) -> None:
    """Write one run in which true utility falls while proxy reward rises."""
    chance = random.Random(0)
    prose = " ".join(pydoc_data.topics.topics.values()).split()

    def text() -> str:
        start = chance.randrange(len(prose) - words)
        return " ".join(prose[start : start + words])

    prompts = load_prompts("bundled")
    rounds = candidates // (PER_PROMPT * PROMPTS_A_ROUND)
    (out / "config.yaml").write_text(yaml.safe_dump({"steering": "practical", "seed": 0, "rounds": rounds}))
    (out / "environment.json").write_text(json.dumps({"python": platform.python_version()}))
    total = 0
    for done in range(rounds + 1):
        if done % EVERY == 0 or done == rounds:
            append(out / records.HELDOUT, [
                records.HeldoutRow(
                    done, prompt.id, prompt.text, prompt.kind, text(), words, chance.gauss(done / 50, 1),
                    chance.gauss(4 - done / 50, 1), done * 0.1, 0.8, 0.95,
                )
                for prompt in prompts.heldout[:HELDOUT_PROMPTS]
            ])  # fmt: skip
        if done == 0:
            continue
        rows = []
        for place in range(PROMPTS_A_ROUND):
            prompt = prompts.train[(done * PROMPTS_A_ROUND + place) % len(prompts.train)]
            for number in range(PER_PROMPT):
                penalty = chance.expovariate(2)
                rows.append(records.CandidateRow(
                    done, prompt.id, prompt.text, number, text(), words, chance.gauss(done / 50, 1), 0.0,
                    chance.expovariate(0.3), chance.gauss(4 - done / 50, 1), chance.random(), -penalty, penalty, None,
                    chance.gauss(0, 1), number == 0,
                ))  # fmt: skip
        total += len(rows)
        append(out / records.CANDIDATES, rows)
        append(out / records.ROUNDS, [records.RoundRow(
            done, 0.1, 0.2, 0.0, 3.0, 3.0, 0.5, 0.4, chance.gauss(0.1, 0.1), 0.6, 0.7, 2.0, words, 0, len(rows), total,
        )])  # fmt: skip


def _open(page: Path) -> float | None:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", timeout=60_000)
        taken = time.perf_counter() - start
        browser.close()
    return round(taken, 1)


if __name__ == "__main__":
    main()
