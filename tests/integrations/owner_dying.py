"""Kill an owner at its n-th step (SIGKILL), start it again, have everything asked again, and look what is left.

Needs the names MODEL, PLACE and MOST (points that stand for all; None: all); prints a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import transformers.models.deberta_v2.modeling_deberta_v2  # noqa: F401  # once, before the forks

from foresighted.alignment import probed
from foresighted.integrations.owner import OwnerConfig, RewardOwner, holding, journal, teacher, versions
from foresighted.store import files, tensors

GROUPS, SIZE, EVERY = 6, 3, 2
os.fsync = lambda _descriptor: None  # no test cuts the power


def prefer(prompts, first, second):
    return [1 / (1 + 2.7 ** ((len(b) - len(a)) / 10)) for a, b in zip(first, second, strict=True)]


class Death:
    """Counts what an owner does, and ends the process at one of these steps: before it, halfway, or after it."""

    def __init__(self, point: int | None) -> None:
        self.point, self.count, self.names = point, 0, Counter()
        self.around(journal.Journal, "append")
        self.around(versions, "save")
        self.around(teacher.Teacher, "hand_over")
        self.around(teacher.Teacher, "_learn")
        self.around(probed.ProbedFollower, "update")
        self.around(holding.Holding, "add")
        self.around(Path, "rename")
        self.around(tensors, "save_file", lambda _tensors, path: Path(path).write_bytes(b"\x10\0\0\0\0\0\0\0torn"))
        self.around(files, "append", self.half)
        self.around(os, "truncate")

    @staticmethod
    def half(path, lines):
        data = lines.encode()
        with path.open("ab") as file:
            file.write(data[: len(data) // 2 + 7])

    def step(self, name, halfway=lambda: None):
        self.count += 1
        self.names[name] += 1
        if self.count == self.point:
            halfway()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, home, name, halfway=None):
        original = getattr(home, name)

        def dying(*args, **kwargs):
            self.step(f"{name} begins")
            if halfway:
                self.step(f"{name} halfway", lambda: halfway(*args))
            result = original(*args, **kwargs)
            self.step(f"{name} ends")
            return result

        setattr(home, name, dying)


async def play(model, folder, heard):
    """Ask for every group, responses one by one and out of order; write down each answer that came."""
    config = OwnerConfig(reward_model=model, device="cpu", update_every=EVERY, reward_model_learning_rate=1e-2)
    owner = RewardOwner.open(folder, config, prefer)

    async def one(group, member):
        said = await owner.score(
            "run", f"g{group}", member, SIZE, f"Question {group}?", f"answer {'so ' * member}{group}"
        )
        with heard.open("a") as file:
            file.write(json.dumps([group, member, said.row()]) + "\n")

    for group in range(GROUPS):
        await asyncio.gather(*(one(group, member) for member in (1, 2, 0)))
        end = time.monotonic() + 120
        while (await owner.status())["rounds"] < (group + 1) // EVERY:
            assert time.monotonic() < end, await owner.status()
            await asyncio.sleep(0.002)
    status = await owner.status()
    await owner.close()
    return status


def child(model, folder, heard, point):
    """Return the exit code of a process that plays, how many steps it made, and its status."""
    said = folder.with_name("said.json")
    said.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            death = Death(point)
            status = asyncio.run(play(model, folder, heard))
            said.write_text(json.dumps([death.count, dict(death.names), status]))
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code, json.loads(said.read_text()) if said.exists() else None


def faults(folder, heard, status):
    """Return what is wrong after an owner was killed and went on."""
    told = {}
    wrong = []
    for line in heard.read_text().splitlines():
        group, member, answer = json.loads(line)
        if told.setdefault((group, member), answer) != answer:
            wrong.append(f"{group}, {member} was told {told[group, member]}, then {answer}")
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    events = Counter(row["event"] for row in rows)
    groups = Counter(row["group"] for row in rows if row["event"] == "group")
    labelled = Counter(row["number"] for row in rows if row["event"] == "labels")
    learnt = Counter(name for row in rows if row["event"] == "round" for name in row["learnt"])
    for what, counts, want in (("group", groups, GROUPS), ("label", labelled, GROUPS), ("pair", learnt, GROUPS)):
        if len(counts) != want or set(counts.values()) != {1}:
            wrong.append(f"{what}: {counts}")
    if len(told) != GROUPS * SIZE or events["round"] != GROUPS // EVERY or status["version"] != GROUPS // EVERY:
        wrong.append(f"{len(told)} answers, {events}, version {status['version']}")
    for name, want in (("rounds.jsonl", GROUPS // EVERY), ("candidates.jsonl", GROUPS * SIZE)):
        count = len((folder / name).read_text().splitlines())
        wrong += [] if count == want else [f"{name}: {count} rows"]
    left = [str(path) for path in folder.rglob("*tmp*")]
    return wrong + ([f"left: {left}"] if left else [])


def campaign(model, place, most):
    """Return how many kills there were, where, and what was wrong after any of them."""
    place.mkdir(parents=True)
    code, said = child(model, place / "whole", place / "whole.jsonl", None)
    assert code == 0, code
    steps, names, status = said
    wrong, kills = faults(place / "whole", place / "whole.jsonl", status), 0
    points = range(1, steps + 1)
    for point in points[:: max(1, steps // most)] if most else points:
        folder, heard = place / "run", place / "run.jsonl"
        shutil.rmtree(folder, ignore_errors=True)
        heard.write_text("")
        code, _ = child(model, folder, heard, point)
        kills += code == -signal.SIGKILL
        code, said = child(model, folder, heard, None)
        found = [f"exit code {code}"] if code else faults(folder, heard, said[2])
        wrong += [f"point {point}: {text}" for text in found]
    return {"steps": steps, "names": names, "kills": kills, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(campaign(MODEL, Path(PLACE), MOST)))  # noqa: F821 (of runpy)
