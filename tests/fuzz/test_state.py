"""What a resume reads, with a byte or a line changed: refused in one line before a write, or it changes no result."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foresighted.settings import MAY_CHANGE_ON_RESUME, TrainConfig, to_mapping
from foresighted.store.records import RECORD_FILES


def _line(change):
    """Return a change of bytes that a change of their lines makes, at a place in [0, 1)."""

    def changed(data, at, _):
        lines = data.split(b"\n")
        change(lines, int(at * len(lines)))
        return b"\n".join(lines)

    return changed


def _byte(change):
    def changed(data, at, bit):
        place = int(at * len(data))
        return data[:place] + change(data[place : place + 1], bit) + data[place + 1 :]

    return changed


CHANGES = {
    "flipped bit": _byte(lambda byte, bit: bytes(b ^ (1 << bit) for b in byte)),
    "deleted byte": _byte(lambda byte, bit: b""),
    "inserted byte": _byte(lambda byte, bit: bytes([bit + 48]) + byte),
    "NUL": _byte(lambda byte, bit: b"\0"),
    "digit": lambda data, at, bit: data[: int(at * len(data))] + data[int(at * len(data)) :].replace(b"1", b"7", 1),
    "deleted line": _line(lambda lines, i: lines.pop(i)),
    "doubled line": _line(lambda lines, i: lines.insert(i, lines[i])),
    "blank line": _line(lambda lines, i: lines.insert(i, b"")),
    "swapped lines": _line(lambda lines, i: lines.insert(0, lines.pop(i))),
    "torn line": lambda data, at, bit: data + b'{"round": 9, "to',
    "CRLF": lambda data, at, bit: data.replace(b"\n", b"\r\n"),
    "cut": lambda data, at, bit: data[: int(at * len(data))],
    "empty": lambda data, at, bit: b"",
    "a list": lambda data, at, bit: b"[]",
    "an object": lambda data, at, bit: b"{}",
}
changes = st.tuples(st.sampled_from(sorted(CHANGES)), st.floats(0, 1, exclude_max=True), st.integers(0, 7))


def _bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Damaged:
    """A directory whose files are changed one at a time, checked, and put back."""

    def __init__(self, folder: Path, *leave: str) -> None:
        self.folder, self.whole = folder, _bytes(folder)
        self.names = sorted(name for name in self.whole if not name.endswith((".lock", *leave)))

    def meet(self, counts, which: int, change, check, right) -> None:
        """Change a file and call `check`, which may write nothing; `right(name, data, result)` says what may come."""
        name = self.names[which % len(self.names)]
        data = CHANGES[change[0]](self.whole[name], *change[1:])
        if data == self.whole[name]:
            return
        (self.folder / name).write_bytes(data)
        there = _bytes(self.folder)
        try:
            counts.call(check, right=partial(right, name, data))
            after = _bytes(self.folder)
            assert {n: b for n, b in after.items() if not n.endswith(".lock")} == {
                n: b for n, b in there.items() if not n.endswith(".lock")
            }
        finally:
            (self.folder / name).write_bytes(self.whole[name])


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run with two checkpoints, its settings, and its directory to damage."""
    from foresighted.alignment.run import train

    config = replace(tiny, rounds=3)
    out = tmp_path_factory.mktemp("state") / "run"
    train(config, out)
    return config.resolved(), Damaged(out, "timings.jsonl", "environment.json")


@given(which=st.integers(0, 10**6), change=changes)
def test_a_run_is_whole_or_refused(tally, trained, which, change):
    from foresighted.alignment.run import check_kept, run_claim
    from foresighted.api.arguments import configured
    from foresighted.prompts import load_prompts
    from foresighted.store.directory import check_claim, start_directory

    config, place = trained
    out = place.folder

    def check():
        own = configured(TrainConfig, {}, out=out, resume=True, config=None).resolved()
        check_claim(run_claim(own), out, resume=True)
        return own, check_kept(own, out, load_prompts(own.prompts), start_directory(out, own.seed))

    def right(name, data, result):
        own, found = result
        same = all(getattr(own, key) == value or key in MAY_CHANGE_ON_RESUME for key, value in vars(config).items())
        newest = found is not None and found.folder.name == "round-000003"
        if name.startswith("checkpoints/round-000003"):
            return same and not newest
        if name in RECORD_FILES or name.startswith("start/"):
            return same and newest and data.startswith(place.whole[name])  # what follows is cut off
        return same and newest

    place.meet(tally("state of a run"), which, change, check, right)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two parts, its request, and its directory to damage."""
    pytest.importorskip("jax")
    from foresighted.games import LINEAR, LinearSettings
    from foresighted.games.run import Request, sweep

    request = Request(game=LINEAR, base=LinearSettings(iterations=4), arms=("rlhf", "exact"), seeds=(0, 1))
    out = tmp_path_factory.mktemp("state") / "sweep"
    sweep(request, out, jobs=1)
    return request, Damaged(out / "parts")


@given(which=st.integers(0, 10**6), change=changes)
def test_a_sweep_is_whole_or_refused(tally, swept, which, change):
    from foresighted.games.records import finished_runs
    from foresighted.games.run import MAY_GROW

    request, place = swept
    check = partial(finished_runs, place.folder.parent, request.mapping(), MAY_GROW)
    place.meet(tally("state of a sweep"), which, change, check, lambda *_: False)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """An evaluation of two files by a function, its settings, and its directory to damage."""
    import json

    from foresighted.judging.run import evaluate
    from foresighted.judging.settings import EvaluateConfig

    place = tmp_path_factory.mktemp("state")
    for name in ("a", "b"):
        rows = [json.dumps({"prompt": f"Q{i}?", "text": name * (i + 1)}) + "\n" for i in range(3)]
        (place / f"{name}.jsonl").write_text("".join(rows))
    (place / "judge.py").write_text("def longer(prompt, first, second): return float(first > second)\n")
    policies = (f"a={place}/a.jsonl", f"b={place}/b.jsonl")
    config = EvaluateConfig(policies=policies, judge=f"{place}/judge.py:longer")
    evaluate(config, place / "out")
    return config, Damaged(place / "out", "evaluation.json", "environment.json", "config.yaml")


@given(which=st.integers(0, 10**6), change=changes)
def test_an_evaluation_is_whole_or_refused(tally, judged, which, change):
    from foresighted.judging import kept

    config, place = judged
    check = partial(kept.check, place.folder, config)
    place.meet(
        tally("state of an evaluation"), which, change, check,
        lambda name, data, _: name != kept.HASHES and data.startswith(place.whole[name]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def monitored(tiny_deberta, tmp_path_factory):
    """What FPOReward keeps of a trainer's run at step 2, what goes on from it, and both folders to damage."""
    pytest.importorskip("trl")
    import torch

    from foresighted.integrations.trl import FPOConfig, FPOReward

    out = tmp_path_factory.mktemp("state") / "out"
    fpo = FPOReward(str(tiny_deberta), FPOConfig(update_every=2), lambda prompts, first, second: [0.25] * len(prompts))
    args = SimpleNamespace(device=torch.device("cpu"), output_dir=str(out), num_generations=3, should_save=True,
                           gradient_accumulation_steps=1)  # fmt: skip
    state = SimpleNamespace(global_step=0, log_history=[], max_steps=9)
    fpo.on_train_begin(args, state, None, model=SimpleNamespace(training=True), processing_class=None)
    for number in range(3):
        fpo(["p"] * 3, [f"one {number}", "two words", "three"])
    state.global_step = 3
    fpo.on_save(args, state, None)
    return fpo, Damaged(out, "environment.json", "config.yaml")


@given(which=st.integers(0, 10**6), change=changes)
def test_a_trainers_state_is_whole_or_refused(tally, monitored, which, change):
    from foresighted.integrations.trl import checkpoint

    fpo, place = monitored
    folder, journal = place.folder / "checkpoint-3" / "foresighted", place.folder / "foresighted"

    def check():
        return checkpoint.restore(folder, checkpoint.read_state(folder), fpo.follower, journal)

    place.meet(
        tally("state of a trainer's run"), which, change, check,
        lambda name, data, _: name.startswith("foresighted/") and data.startswith(place.whole[name]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoints/round-000003/state.json", "flipped bit"),
        ("checkpoints/round-000003/state.json", "a list"),
        ("candidates.jsonl", "torn line"),
        ("start/seed-0/references.jsonl", "deleted line"),
        ("start/seed-0/hashes.json", "digit"),
        ("heldout.jsonl", "doubled line"),
        ("environment.json", "empty"),
        ("environment.json", "a list"),
    ],
)
def test_the_command_says_so_or_ends_in_the_same_bits(tally, trained, tmp_path, capsys, name, change):
    _, place = trained
    out, again = tmp_path / "run", tmp_path / "again"
    shutil.copytree(place.folder, out)
    (out / name).write_bytes(CHANGES[change]((out / name).read_bytes(), 0.4, 2))
    before = _bytes(out)
    code, _ = tally("state of a run, resumed").command(["train", "--out", str(out), "--resume", "--quiet"], capsys)
    if code == 2:
        assert _bytes(out) == before
        return
    shutil.copytree(place.folder, again)
    left = {key: value for key, value in _bytes(out).items() if key not in ("timings.jsonl", "environment.json")}
    assert left == {key: value for key, value in _bytes(again).items() if key in left}


def test_settings_that_a_checkpoint_was_made_with_are_kept_with_it(trained):
    from foresighted.alignment import checkpoint
    from foresighted.store.rows import plain

    config, place = trained
    state = checkpoint._read(place.folder / "checkpoints" / "round-000003")
    assert state.config == plain(to_mapping(config))
