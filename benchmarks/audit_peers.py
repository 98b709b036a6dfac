"""The audit and the monitor on runs of others, hacked or not, and on logs of our own: detection, alarms, delay.

    python benchmarks/audit_peers.py [RUNS.parquet]

RUNS.parquet has a row a step: data, run, hacked, onset, step, reward, gold, kl, tokens. The file belongs to nobody who
installs this; where it is not there (../shared/reference/peer_runs.parquet), only the generated nulls are run.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from audit_logs import COLLAPSING, HEALTHY, make
from pyarrow import parquet

from foresighted.auditing.audit import audit
from foresighted.integrations.monitoring.monitor import MetricsMonitor

RUNS = Path("../shared/reference/peer_runs.parquet")
COLUMNS = ("trusted metric: collapsed", "suspicious", "monitor", "delay (steps)", "without: collapsed", "suspicious")


def peer_runs(path: Path) -> Iterator[tuple[str, str, bool, float, list[dict]]]:
    """Yield data set, name, whether it was hacked, from when on, and the rows of each run."""
    runs = collections.defaultdict(list)
    for row in parquet.read_table(path).to_pylist():
        runs[row.pop("data"), row.pop("run"), row.pop("hacked"), row.pop("onset")].append(
            {name: value for name, value in row.items() if value is not None and np.isfinite(value)}
        )
    for (data, run, hacked, onset), rows in runs.items():
        yield data, run, hacked, np.nan if onset is None else onset, rows


def judged(rows: list[dict], folder: Path) -> dict:
    """Return what the audit says with and without the trusted metric, and where the monitor called a collapse."""
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = audit(path)
    blind = audit(path, columns={"utility": ""})
    monitor = MetricsMonitor("gold", "reward", symptoms=())
    for row in rows:
        monitor.log(row["step"], row)
    fall = known.arms[0].fall
    return {
        "verdict": known.verdict, "blind": blind.verdict,
        "at": fall.last if known.verdict == "collapsed" else None,
        "monitor": monitor.verdict.step if monitor.verdict else None,
    }  # fmt: skip


def peers(path: Path) -> None:
    """Print the table by data set."""
    found = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for data, _, hacked, onset, rows in peer_runs(path):
            found[data, hacked].append((judged(rows, Path(folder)), onset))
    print("| runs |", " | ".join(COLUMNS), "|")
    for (data, hacked), some in sorted(found.items()):
        cells = [sum(one["verdict"] == verdict for one, _ in some) for verdict in ("collapsed", "suspicious")]
        cells.append(sum(one["monitor"] is not None for one, _ in some))
        delays = [one["at"] - onset for one, onset in some if one["at"] is not None and hacked and np.isfinite(onset)]
        cells.append(f"{np.median(delays):.0f}" if delays else "")
        cells += [sum(one["blind"] == verdict for one, _ in some) for verdict in ("collapsed", "suspicious")]
        print(f"| {data}, {len(some)} {'hacked' if hacked else 'clean'} |", " | ".join(map(str, cells)), "|")
    clean = [one for (_, hacked), some in found.items() if not hacked for one, _ in some]
    for verdict in ("collapsed", "suspicious"):
        print(f"clean runs that are {verdict}: {sum(one['verdict'] == verdict for one in clean)} of {len(clean)}")
    differ = [one for some in found.values() for one, _ in some if (one["monitor"] is None) != (one["at"] is None)]
    print(f"audit and monitor differ: {len(differ)} of {sum(map(len, found.values()))}")
    kl(path)


def kl(path: Path) -> None:
    """Print how often KL at four times its first five logs, the symptom of 0.2, shows in clean runs."""
    shown = collections.defaultdict(list)
    for data, _, hacked, _, rows in peer_runs(path):
        values = [row["kl"] for row in rows if "kl" in row]
        if len(values) >= 10 and not hacked:
            start = np.mean(values[:5])
            shown[data].append(any(min(values[n : n + 5]) > 4 * start for n in range(5, len(values) - 4)))
    blind(path)
    print("KL symptom of 0.2 in clean runs:", {data: f"{sum(some)} of {len(some)}" for data, some in shown.items()})


def blind(path: Path) -> None:
    """Print how many runs the monitor names without a trusted metric, by reward, KL and length."""
    counts = collections.Counter()
    for _, _, hacked, _, rows in peer_runs(path):
        if "tokens" not in rows[0]:
            continue
        monitor = MetricsMonitor(None, "reward")
        logs = [{"reward": row["reward"], "kl": row["kl"], "completions/mean_length": row["tokens"]} for row in rows]
        said = [one for row, log in zip(rows, logs, strict=True) for one in monitor.log(row["step"], log)]
        counts["hacked" if hacked else "clean", bool(said)] += 1
    print("monitor without a trusted metric (whose, named):", dict(counts))


def generated() -> None:
    """Print what the audit says of logs of `audit_logs.py`, with responses and as means by round."""
    for stories, seeds in ((COLLAPSING, 12), (HEALTHY, 6)):
        counts = collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            for story in stories:
                for seed in range(seeds):
                    made = make(9000 + seed, story)
                    counts += _generated(made, Path(folder))
        print(f"generated, {'collapsing' if stories is COLLAPSING else 'healthy'}:", dict(counts))


def _generated(made, folder: Path) -> collections.Counter:
    path = folder / "log.jsonl"
    measure = made.truth.measure
    path.write_text("".join(json.dumps(row) + "\n" for row in made.rows))
    said = audit(path, columns={"response": "text", "reward": "reward", measure: measure}).verdict
    means = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in made.rows:
        for name in ("reward", measure):
            if row[name] is not None:
                means[row["round"]][name].append(row[name])
    rows = [{"step": step, **{name: float(np.mean(some)) for name, some in by.items()}} for step, by in means.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return collections.Counter(
        {f"responses: {said}": 1, f"means: {audit(path, columns={measure: measure}).verdict}": 1}
    )


def nulls(runs: int = 200) -> None:
    """Print false alarms on healthy logs without a fall, and of what is only named: dominance, idle groups."""
    for kept in (0.0, 0.3, 0.6):
        counts = collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(runs):
                counts += _null(np.random.default_rng((seed, 19)), kept, Path(folder))
        print(f"healthy logs, autocorrelation {kept}: of {runs}", dict(counts))


def _null(random: np.random.Generator, kept: float, folder: Path) -> collections.Counter:
    logs = int(random.choice([17, 40, 100, 300]))
    t = np.arange(logs) / logs
    gain = random.uniform(0, 5)
    shapes = (0 * t, gain * t, gain * np.minimum(1, 2 * t), gain * (t > random.uniform(0.2, 0.8)))
    quality = shapes[int(random.integers(len(shapes)))]

    def noise(size: float) -> np.ndarray:
        steps, out = random.normal(0, 1, logs), np.zeros(logs)
        out[0] = steps[0]
        for n in range(1, logs):
            out[n] = kept * out[n - 1] + np.sqrt(1 - kept**2) * steps[n]
        return size * out

    parts = [0.5 * quality + noise(0.7), 0.5 * quality + noise(0.7)]
    spreads = [np.abs(random.uniform(0.5, 1) + noise(0.1)) for _ in parts]
    idle = (random.uniform(0.05, 0.45) + noise(0.1)).clip(0, 1)
    rows = [
        {"step": n, "reward": parts[0][n] + parts[1][n], "rewards/gold/mean": value, "frac_reward_zero_std": idle[n],
         "rewards/a/mean": parts[0][n], "rewards/b/mean": parts[1][n], "rewards/a/std": spreads[0][n],
         "rewards/b/std": spreads[1][n]}
        for n, value in enumerate(quality + noise(1.0))
    ]  # fmt: skip
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows}))
    found = audit(path)
    alarms = {one.name for one in found.arms[0].symptoms if one.alarming}
    return collections.Counter({found.verdict: 1, **{f"named: {name}": 1 for name in alarms}})


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", type=Path, nargs="?", default=RUNS)
    place = asked.parse_args().runs
    logging.disable(logging.WARNING)
    begun = time.perf_counter()
    if place.exists():
        peers(place)
    else:
        print(f"{place} is not here: peers are left out")
    generated()
    nulls()
    print(f"{time.perf_counter() - begun:.0f} s")
