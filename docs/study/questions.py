"""Which pairs to ask, at equal labels, in a game: what docs/study/questions.md shows.

    python docs/study/questions.py play      # 256 fresh seeds -> questions.parquet (four minutes of one core)
    python docs/study/questions.py tuned     # each way with a tuned step of the reward model -> questions_tuned.parquet
    python docs/study/questions.py show      # from these -> questions_table.md

What is played on the language model are the parts `questions-blind` and `questions-pair` of run.py.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foresighted.games import Follower, Game, simulate
from foresighted.games.settings import setting
from foresighted.statistics.intervals import paired_interval

HERE = Path(__file__).parent
SEEDS = tuple(range(21000, 21256))
TUNING = tuple(range(20000, 20064))
STEPS = (0.025, 0.05, 0.1, 0.2, 0.4)
"""Of the reward model; .05 is the game's."""
HEADS = 4
"""Reward models whose mean pays the leader; each learns from its own half of the labels (double or nothing)."""
POOL = 4
"""Actions of the leader that one label chooses from."""
ASKS = ("random", "uncertain", "influence", "disagreement")
MIXES = ("influence", "disagreement")
"""Asked with half of the questions at random, too."""
Policy = Literal["random", "uncertain", "influence", "disagreement"]


def _bandit() -> Any:
    path = HERE.parent / "examples" / "bandit_game.py"
    spec = importlib.util.spec_from_file_location("bandit_game", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bandit_game"] = module
    spec.loader.exec_module(module)
    return module


bandit = _bandit()


def pick(s: Any, margin: Any, gram: Any, draws: Any) -> Any:
    """Return which of each label's pool is asked about, shape n.

    Args:
        s: `ask`, and `chance`, the share of questions at random whatever it says.
        margin: r(y) - r(y') by each reward model, shape HEADS n POOL.
        gram: S, shape n POOL.
        draws: `asked` and `coin`, in [0, 1), shapes n POOL and n.
    """
    mean = margin.mean(0)
    believed = jax.nn.sigmoid(mean)
    worth = {
        "random": draws["asked"],
        "uncertain": -jnp.abs(mean),
        "influence": believed * (1 - believed) * jnp.abs(gram),
        "disagreement": margin.std(0),
    }[s.ask]
    return jnp.argmax(jnp.where(draws["coin"][:, None] < s.chance, draws["asked"], worth), axis=1)


def question_draws(s: Any, seed: int) -> dict[str, Any]:
    """Return what questions and the halves of the reward models draw."""
    random, shape = np.random.default_rng([seed, 7]), (s.iterations, s.labels_per_round)
    uniform = {
        "asked": (*shape, POOL), "coin": shape, "half": (*shape, HEADS), "picks": (*shape, POOL),
    }  # fmt: skip
    return {name: random.uniform(size=size).astype(np.float32) for name, size in uniform.items()}


def bradley_terry(margin: Any, labels: Any, counts: Any) -> Any:
    """Return the loss of labels, each counted so often, over their number."""
    return jnp.sum(counts * (jnp.logaddexp(margin, 0.0) - labels * margin)) / jnp.maximum(counts.shape[0], 1)


# 64 responses, a softmax policy, linear reward models that see some of 12 features.


@dataclass(frozen=True)
class BanditSettings(bandit.BanditSettings):  # type: ignore[misc, name-defined]
    """The third game's, and how it asks."""

    ask: Policy = setting("random", "labels", "which action a label is about")
    chance: float = setting(0.0, "labels", "share of questions at random", low=0, high=1)
    seen: int = setting(8, "reward model", "features that the reward models see, of 12", low=1, high=12)


def _features(s: Any, action: Any) -> Any:
    return action @ jnp.asarray(bandit.TABLE[:, : s.seen], action.dtype)


def _bandit_follower(s: Any, follower: Follower, logits: Any, label: Any, draws: Any, t: Any) -> Follower:
    below = jnp.cumsum(jax.nn.softmax(logits)) < draws["picks"][..., None]
    pool = jax.nn.one_hot(jnp.minimum(below.sum(-1), bandit.RESPONSES - 1), bandit.RESPONSES)
    references = jax.nn.one_hot(draws["reference"].astype(int), bandit.RESPONSES)
    features, other = _features(s, pool), _features(s, references)
    apart = features - other[:, None]
    margin = jnp.einsum("hf,ncf->hnc", follower.weights, apart)
    chosen = pick(s, margin, jnp.sum(features * apart, axis=-1), draws)
    actions = jnp.take_along_axis(pool, chosen[:, None, None], axis=1)[:, 0]
    labels = jax.vmap(label)(actions, references, draws["label"])
    known = _features(s, actions) - other
    counts = 2.0 * (draws["half"] < 0.5)

    def loss(weights: Any) -> Any:
        each = jax.vmap(lambda w, count: bradley_terry(known @ w, labels, count), in_axes=(0, 1))
        return jnp.sum(each(weights, counts))

    weights = follower.weights - s.reward_model_step * jax.grad(loss)(follower.weights)
    return Follower(weights, (), actions, references, labels, jnp.ones_like(labels))


BANDIT: Game = replace(
    bandit.BANDIT,
    settings=BanditSettings,
    start_draws=lambda s, seed, member: np.random.default_rng([seed, 0, member]).normal(size=(HEADS, s.seen)),
    round_draws=lambda s, seed: bandit.round_draws(s, seed) | question_draws(s, seed),
    reward=lambda s, weights, action: weights.mean(0) @ _features(s, action),
    follower_step=_bandit_follower,
    gammas={form: HEADS * gamma for form, gamma in bandit.BANDIT.gammas.items()},  # each weight moves the mean by 1/H
)

CELLS: dict[str, BanditSettings] = {
    "8 of 12 features seen, 4 labels a round": BanditSettings(),
    "8 of 12 features seen, 1 label a round": BanditSettings(labels_per_round=1),
    "all 12 seen, 4 labels a round": BanditSettings(seen=12),
    "all 12 seen, 1 label a round": BanditSettings(seen=12, labels_per_round=1),
}
FORMS = ("rlhf", "practical")
QUESTIONS = (*((ask, 0.0) for ask in ASKS), *((ask, 0.5) for ask in MIXES))
"""How it is asked, and which share of the questions at random all the same."""


def play(seeds: tuple[int, ...] = SEEDS, cells: tuple[str, ...] = tuple(CELLS)) -> pa.Table:
    """Play every cell, form and way of asking; return a row a run."""
    columns: dict[str, list[Any]] = {name: [] for name in ("cell", "form", "ask", "chance", "seed", "final", "area")}
    for cell in cells:
        arms = [f"{form}:ask={ask}:chance={chance:g}" for form in FORMS for ask, chance in QUESTIONS]
        names = [(form, ask, chance) for form in FORMS for ask, chance in QUESTIONS]
        utility = simulate(BANDIT, arms, seeds, CELLS[cell]).utility
        for (form, ask, chance), rows in zip(names, utility, strict=True):
            known = {"cell": cell, "form": form, "ask": ask, "chance": chance}
            for name, value in known.items():
                columns[name] += [value] * len(seeds)
            columns["seed"] += seeds
            columns["final"] += [np.float32(x) for x in rows[:, -1]]
            columns["area"] += [np.float32(x) for x in rows.mean(1)]
    return pa.table(columns)


def tuned() -> pa.Table:
    """Play three ways of asking, each with the reward-model step of `STEPS` that ends best on seeds of its own.

    A pair of large influence has a large gradient, so that asking for it also makes larger steps.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("cell", "form", "ask", "step", "seed", "final", "area")}
    for cell, config in CELLS.items():
        for form in FORMS:
            for ask in ASKS[:3]:
                arms = [f"{form}:ask={ask}:reward_model_step={step:g}" for step in STEPS]
                ends = simulate(BANDIT, arms, TUNING, config).utility[:, :, -1].mean(1)
                best = int(np.argmax(ends))
                (rows,) = simulate(BANDIT, [arms[best]], SEEDS, config).utility
                known = {"cell": cell, "form": form, "ask": ask, "step": STEPS[best]}
                for name, value in known.items():
                    columns[name] += [value] * len(SEEDS)
                columns["seed"] += SEEDS
                columns["final"] += [np.float32(x) for x in rows[:, -1]]
                columns["area"] += [np.float32(x) for x in rows.mean(1)]
    return pa.table(columns)


def show_tuned(table: pa.Table) -> str:
    """Return the table of ways of asking with tuned steps."""
    found = {name: np.array(values) for name, values in table.to_pydict().items()}
    lines = [
        "| cell | form | asked | step | utility at the end | against random | mean over rounds, against random |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for cell in CELLS:
        for form in FORMS:
            runs = {ask: (found["cell"] == cell) & (found["form"] == form) & (found["ask"] == ask) for ask in ASKS[:3]}
            for ask, at in runs.items():
                final = found["final"][at].astype(float)
                told = [cell, form, ask, f"{found['step'][at][0]:g}", f"{final.mean():.2f}"]
                for name in ("final", "area"):
                    values, base = (found[name][rows].astype(float)[:, None] for rows in (at, runs["random"]))
                    told.append("" if ask == "random" else _difference(values, base))
                lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _difference(values: Any, base: Any) -> str:
    one = paired_interval(values, base, seed=0)
    return f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def show(table: pa.Table) -> str:
    """Return the table of the page: final utility and its mean over rounds, paired with asking at random."""
    found = {name: np.array(values) for name, values in table.to_pydict().items()}
    lines = [
        "| cell | form | asked | utility at the end | against random | mean over rounds, against random |",
        "|---|---|---|--:|--:|--:|",
    ]
    for cell in dict.fromkeys(found["cell"]):
        for form in FORMS:

            def runs(name: str, ask: str, chance: float, cell: str = cell, form: str = form) -> Any:
                at = (found["cell"] == cell) & (found["form"] == form) & (found["ask"] == ask)
                return found[name][at & (found["chance"] == chance)].astype(float)

            for ask, chance in QUESTIONS:
                told = f"{ask}, half at random" if chance else ask
                final = runs("final", ask, chance)
                cells = [cell, form, told, f"{final.mean():.2f}"]
                for name in ("final", "area"):
                    values, base = runs(name, ask, chance)[:, None], runs(name, "random", 0.0)[:, None]
                    cells.append("" if ask == "random" else _difference(values, base))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1:] == ["play"]:
        pq.write_table(play(), HERE / "questions.parquet", compression="zstd")
    elif sys.argv[1:] == ["tuned"]:
        pq.write_table(tuned(), HERE / "questions_tuned.parquet", compression="zstd")
    elif sys.argv[1:] == ["show"]:
        for name, shown in (("", show), ("_tuned", show_tuned)):
            table = pq.read_table(HERE / f"questions{name}.parquet")
            (HERE / f"questions{name}_table.md").write_text(shown(table), encoding="utf-8")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
