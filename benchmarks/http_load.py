"""A reward owner over HTTP under load: many clients, both protocols, faults injected; every answer is checked.

    python benchmarks/http_load.py --seconds 600 --clients 64
    python benchmarks/http_load.py --seconds 30 --clients 16   # a short look

Half of the clients send whole groups to /score, half single samples to /openrlhf with a reference in the label.
Meanwhile requests are sent twice, cut off in the middle, or no JSON, and the server is killed (SIGKILL) and started
again `--kills` times. In the end every answer that a client got is compared with the journal, and the throughput with
that of the same reward model answering the same mix of requests in this process, in batches, with nothing else to do:
the mean of a minute before and a minute after, since a machine's speed changes within the hour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import aiohttp

from foresighted.integrations.owner import OwnerConfig
from foresighted.integrations.owner.events import Group
from foresighted.integrations.owner.journal import JOURNAL, read
from foresighted.prompts import load_prompts

SIZE = 8
REFERENCE = "It depends on what you mean."
WORDS = list(map("w{}".format, range(200)))
PROMPTS = [prompt.text for prompt in load_prompts("bundled").train]


def texts(number: int, count: int) -> tuple[str, list[str]]:
    """Return a prompt and some responses, the same for the same number."""
    draw = random.Random(number)
    prompt = draw.choice(PROMPTS)
    return prompt, [f"{number}: {' '.join(draw.choices(WORDS, k=draw.randint(8, 40)))}" for _ in range(count)]


class Load:
    """Clients, what they heard, and how long it took."""

    def __init__(self, url: str, until: float) -> None:
        self.url, self.until = url, until
        self.heard: dict[str, list[float]] = {}
        self.seconds: dict[str, list[float]] = {"/score": [], "/openrlhf": []}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def ask(self, session: aiohttp.ClientSession, path: str, body: dict) -> dict | None:
        """Return an answer, however often the server is away; a request may be cut off and sent again."""
        while time.monotonic() < self.until + 120:
            began = time.monotonic()
            try:
                if random.random() < 0.02:  # a client that dies in the middle
                    self.counts["cut off"] += 1
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(session.post(self.url + path, json=body), 0.02)
                    continue
                async with session.post(self.url + path, json=body) as response:
                    if response.status == 200:
                        self.seconds[path].append(time.monotonic() - began)
                        return await response.json()
                    self.counts[f"status {response.status}"] += 1
                    if response.status != 503:
                        self.wrong.append(f"{path}: {response.status} {(await response.text())[:200]}")
                        return None
            except (aiohttp.ClientError, OSError, TimeoutError):
                self.counts["away"] += 1
            await asyncio.sleep(0.2)
        return None

    async def client(self, session: aiohttp.ClientSession, number: int) -> None:
        """Ask until the time is up."""
        turn = 0
        while time.monotonic() < self.until:
            turn += 1
            key = number * 1_000_000 + turn
            if random.random() < 0.01:
                await self.nonsense(session)
            for _ in range(2 if random.random() < 0.05 else 1):  # retries
                if number % 2:
                    prompt, responses = texts(key, SIZE)
                    asked = {"group": f"g{key}", "prompt": prompt, "responses": responses}
                    said = await self.ask(session, "/score", asked)
                    found = said and [answer["reward"] for answer in said["answers"]]
                else:
                    prompt, responses = texts(key, 1)
                    label = {"reference": REFERENCE, "group": f"s{key}"}
                    asked = {"query": [prompt + responses[0]], "prompts": [prompt], "labels": [label]}
                    said = await self.ask(session, "/openrlhf", asked)
                    found = said and said["rewards"]
                if found and self.heard.setdefault(asked.get("group", f"s{key}"), found) != found:
                    self.wrong.append(f"{key}: another answer to the same question")

    async def nonsense(self, session: aiohttp.ClientSession) -> None:
        """Send what no server should take."""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with session.post(self.url + "/score", data=random.choice([b"[" * 99, b"{", b'{"a": NaN}'])) as said:
                self.counts["nonsense refused"] += said.status == 400
                if said.status != 400:
                    self.wrong.append(f"nonsense: {said.status}")


def start(out: Path, port: int, model: str, every: int) -> subprocess.Popen:
    """Start a server."""
    words = ["serve", "--out", str(out), "--port", str(port), "--reward-model", model, "--labels", f"{__file__}:prefer"]
    words += ["--update-every", str(every), "--label-timeout", "inf"]
    return subprocess.Popen([sys.executable, "-m", "foresighted", *words], stdout=subprocess.DEVNULL)


def prefer(prompts, first, second):
    """Prefer the longer response."""
    return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


async def listens(url: str) -> None:
    """Wait until a server answers."""
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with session.get(url + "/health") as said:
                    if said.status == 200:
                        return
            await asyncio.sleep(0.1)


async def play(args: argparse.Namespace, out: Path) -> tuple[Load, float]:
    """Return what the clients heard, and for how long they asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, process = f"http://127.0.0.1:{port}", start(out, port, args.reward_model, args.update_every)
    await listens(url)
    began = time.monotonic()
    load = Load(url, began + args.seconds)
    timeout = aiohttp.ClientTimeout(600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        clients = [asyncio.ensure_future(load.client(session, n)) for n in range(args.clients)]
        for number in range(args.kills):
            await asyncio.sleep(max(0.0, began + args.seconds * (number + 1) / (args.kills + 1) - time.monotonic()))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = start(out, port, args.reward_model, args.update_every)
            load.counts["killed"] += 1
        await asyncio.gather(*clients)
    took = time.monotonic() - began
    process.terminate()
    process.wait()
    return load, took


def check(load: Load, out: Path) -> None:
    """Compare every answer that was heard with the journal."""
    written: dict[str, list[float]] = {}
    for _, event in read(out / JOURNAL):
        if isinstance(event, Group):
            if event.group in written:
                load.wrong.append(f"{event.group} is there twice")
            written[event.group] = [answer.reward for answer in event.answers().values()]
    lost = [name for name, said in load.heard.items() if written.get(name) != said]
    load.wrong += [f"{name} was heard and is not written so" for name in lost]


def in_process(model: str, seconds: float, singles: float) -> float:
    """Return the responses a second that the reward model answers here, with penalties, in batches as large as the
    server's. Of the requests, the share `singles` are single responses with a reference, the others whole groups."""
    from foresighted.alignment.probed import loaded
    from foresighted.integrations.owner.desk import Job, next_batch
    from foresighted.integrations.owner.scoring import Scorer, Texts

    config = OwnerConfig(reward_model=model, device="cpu").resolved()
    scorer, draw = Scorer(loaded(model, None, config), config), random.Random(0)

    def asked(number: int) -> Texts:
        size, references = (1, (REFERENCE,)) if draw.random() < singles else (SIZE, ())
        prompt, responses = texts(number, size)
        return Texts("r", str(number), None, size, prompt, dict(enumerate(responses)), references, number)

    numbers, waiting = itertools.count(), deque()
    count, began = 0, time.monotonic()
    while time.monotonic() < began + seconds:
        waiting.extend(Job(asked(next(numbers))) for _ in range(config.batch_rows - len(waiting)))
        batch = [job.texts for job in next_batch(waiting, config.batch_rows)]
        features = scorer.features([one.groups for one in batch])
        for one, own in zip(batch, features, strict=True):
            count += len(scorer.scored(one, 0, own, ())[0].members)
    return count / (time.monotonic() - began)


def main() -> None:
    """Print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--update-every", type=int, default=64)
    parser.add_argument("--reward-model", default="embedded:relevance")
    args = parser.parse_args()
    half = min(60.0, args.seconds / 4)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "owner"
        before = in_process(args.reward_model, half, 0.5)
        load, took = asyncio.run(play(args, out))
        check(load, out)
        rounds = len((out / "rounds.jsonl").read_text().splitlines()) if (out / "rounds.jsonl").exists() else 0
    singles = statistics.fmean(len(said) == 1 for said in load.heard.values())
    most = statistics.fmean([before, in_process(args.reward_model, half, singles)])
    responses = sum(len(said) for said in load.heard.values())
    print(json.dumps({
        "seconds": round(took, 1), "responses": responses, "single": round(singles, 2),
        "a second": round(responses / took, 1),
        "in process a second": round(most, 1), "share": round(responses / took / most, 2),
        "latency": {path: quantiles(own) for path, own in load.seconds.items()}, "rounds": rounds,
        "faults": dict(load.counts), "wrong": load.wrong[:5], "wrong in all": len(load.wrong),
    }, indent=1))  # fmt: skip
    sys.exit(bool(load.wrong))


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50 ms": round(1000 * cuts[49], 1), "p99 ms": round(1000 * cuts[98], 1)}


if __name__ == "__main__":
    main()
