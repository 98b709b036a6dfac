"""`foresighted.evaluate`: answers of two or more policies, judged in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foresighted.api.arguments import Place, configured, directory, path_of
from foresighted.api.progress import Told, shown
from foresighted.api.result import FromFile, Plot, frame, joined, plot_of
from foresighted.errors import ConfigError, RunError
from foresighted.judging.result import Evaluation as Data
from foresighted.judging.result import read_evaluation, write_evaluation
from foresighted.judging.settings import EvaluateConfig
from foresighted.settings import faults, from_text
from foresighted.store.directory import NOUNS, kind_of

if TYPE_CHECKING:
    from foresighted.judging.plan import Estimate


class Evaluation(FromFile):
    """What an evaluation says: win rates in `pairs`, answers in `policies`, every number in `data`."""

    main: ClassVar[str] = "pairs"
    reader = staticmethod(read_evaluation)
    data: Data

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was seen, in words."""
        return self.data.sentences

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Pairs, categories of prompts, policies and capabilities."""
        named = [(f"{pair.first} over {pair.second}", pair) for pair in self.data.pairs]
        found = {name: frame(getattr(self.data, name)) for name in ("pairs", "policies", "capabilities")}
        return found | {"categories": joined([frame(pair.categories, pair=name) for name, pair in named])}

    def write(self, directory: str | Path) -> Path:
        """Write `evaluation.json` in a directory; return the directory."""
        to = Path(directory)
        to.mkdir(parents=True, exist_ok=True)
        write_evaluation(to, self.data)
        return to

    def plot(self, name: str | None = None) -> Plot:
        """Return win rates, or another chart of the report by its name."""
        from foresighted.reporting.evaluation import evaluation_page

        return plot_of(evaluation_page(self.data, self.directory), name)


def evaluate(
    *,
    policies: Any = None,
    judgements: Place | None = None,
    baseline: str | None = None,
    out: Place | None = None,
    resume: bool = False,
    config: Place | None = None,
    progress: Told | bool | None = None,
    **settings: Any,
) -> Evaluation:
    """Let policies answer, show pairs of answers to a judge, and report; what `foresighted evaluate` runs.

    Args:
        policies: name -> model, run or its directory, or file of answers; the first is the baseline.
        judgements: a table of judgements that were made elsewhere; nothing is asked then.
        baseline: the policy to compare with, for `judgements` only.
        out: the directory; None for a new folder under `runs/`, or for nothing written with `judgements`.
        resume: go on with the evaluation in `out`, or add policies to it.
        config: settings in YAML; keywords override them.
        progress: told (name, done, total); True, False or None as in `train`.
        **settings: any setting of `EvaluateConfig`.

    Returns:
        The evaluation.

    Raises:
        ForesightedError: bad input, in one line.

    Example:
        >>> evaluate(policies={"before": "embedded", "after": run.directory}, judge="likelihood")  # doctest: +SKIP
    """
    values = settings if policies is None else settings | {"policies": policies}
    if judgements is not None:
        told = values | ({"resume": True} if resume else {}) | ({"config": config} if config else {})
        return _from_table(told, judgements, baseline, out)
    if baseline is not None:
        raise ConfigError("baseline: only for --judgements; elsewhere the first of --policies is the baseline")
    merged = _configured(values, out, resume, config)
    from foresighted.judging.run import evaluate as play

    with directory(out, "evaluate") as place, shown(progress) as tell:
        return Evaluation(play(merged, place, resume=resume, on_progress=tell), place)


def plan(
    settings: Mapping[str, Any], *, out: Place, resume: bool, config: Place | None
) -> tuple[EvaluateConfig, Estimate]:
    """Return the configuration that `evaluate` would run and what that would take; nothing is written.

    Raises:
        ForesightedError: as `evaluate`.
    """
    merged = _configured(settings, out, resume, config)
    from foresighted.judging.plan import estimated

    return merged, estimated(merged, Path(out))


def _configured(values: Mapping[str, Any], out: Place | None, resume: bool, config: Place | None) -> EvaluateConfig:
    def take_out(held: dict[str, Any]) -> None:
        if out is not None and config is None and kind_of(path_of("out", out)) == "table":
            raise RunError(f"out: {out} holds {NOUNS['table']}; choose another --out")

    return configured(EvaluateConfig, values, out=out, resume=resume, config=config, take_out=take_out)


def _from_table(values: Mapping[str, Any], judgements: Place, baseline: str | None, out: Place | None) -> Evaluation:
    if other := [name for name in values if name != "seed"]:
        raise ConfigError(f"{other[0].replace('_', '-')}: has no meaning with --judgements, which asks nobody")
    from foresighted.judging.run import evaluate_table

    text = values.get("seed", 0)
    seed = from_text(EvaluateConfig, "seed", text) if isinstance(text, str) else text
    if wrong := faults(EvaluateConfig, {"seed": seed}):
        raise ConfigError("; ".join(wrong))
    place = None if out is None else path_of("out", out)
    return Evaluation(evaluate_table(path_of("judgements", judgements), baseline=baseline, seed=seed, out=place), place)
