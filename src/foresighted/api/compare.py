"""`foresighted.compare`: several arms and seeds, everything else held fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foresighted.alignment.played import read_plan, run_directory
from foresighted.api.arguments import Place, configured, directory, path_of
from foresighted.api.objects import resumed, separated
from foresighted.api.progress import Told, shown
from foresighted.api.result import frame, joined
from foresighted.api.train import Recorded
from foresighted.errors import ConfigError
from foresighted.settings import CompareConfig
from foresighted.store.directory import explained
from foresighted.store.records import HELDOUT, ROUNDS
from foresighted.store.rows import read_mappings, write_json

if TYPE_CHECKING:
    from foresighted.alignment.side_by_side import Run

SUMMARY = "summary.json"


class Comparison(Recorded):
    """Arms and seeds of one configuration: `arms` is the main table; `rounds` and `heldout` have all records."""

    main: ClassVar[str] = "arms"

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Tables by name, as pandas frames."""
        plan = read_plan(self.directory)
        runs = [(arm, seed, run_directory(self.directory, plan, arm, seed)) for arm in plan.arms for seed in plan.seeds]
        found = {"arms": frame(self.data.arms)}
        for name, file in {"rounds": ROUNDS, "heldout": HELDOUT}.items():
            rows = [(arm, seed, path / file) for arm, seed, path in runs if (path / file).exists()]
            found[name] = joined([frame(read_mappings(path), arm=arm, seed=seed) for arm, seed, path in rows])
        return found

    @property
    def arms(self) -> Any:
        """One row an arm: means with intervals, differences to the baseline, collapse."""
        return self.tables["arms"]


def compare(
    *,
    prompts: Any = None,
    labels: Any = None,
    out: Place | None = None,
    resume: bool = False,
    preset: str | None = None,
    config: Place | None = None,
    progress: Told | bool | None = None,
    **settings: Any,
) -> Comparison:
    """Run several arms and seeds, everything else held fixed; what `foresighted compare` runs.

    Args:
        prompts: as in `train`. The runs are played side by side in this process.
        labels: as in `train`.
        out: the comparison's directory; None for a new folder under `runs/`.
        resume: go on with the comparison in `out`; a run that is finished is left as it is.
        preset: named starting point.
        config: settings in YAML.
        progress: told (arm and seed, rounds done, rounds); True, False or None as in `train`.
        **settings: `arms`, `seeds`, `jobs`, and any setting of `TrainConfig`.

    Returns:
        The comparison; `report` makes its page.

    Raises:
        ForesightedError: bad input, or a run that ended with an error.
        Stopped: after an interrupt, with every running round finished and saved.

    Example:
        >>> compare(arms=["rlhf", "practical"], seeds=range(4), rounds=10)  # doctest: +SKIP
    """
    names_of_models(settings, "compare")
    given, named = separated(None, None, None, None, prompts, labels)
    if resume and out is not None:
        given = resumed(given, named, path_of("out", out))
    merged = configured(CompareConfig, named | settings, out=out, resume=resume, preset=preset, config=config)
    given.check(merged.train)
    from foresighted.alignment.compare import compare as play

    with directory(out, "compare") as place, shown(progress) as tell:

        def on_progress(runs: Sequence[Run]) -> None:
            for one in runs:
                tell(f"{one.arm}, seed {one.seed}", one.rounds_done, merged.train.rounds)

        play(merged, place, resume=resume, on_progress=on_progress, given=given)
    found = Comparison(place)
    with explained(place):
        write_json(place / SUMMARY, found.data.to_mapping())
    return found


def names_of_models(settings: Mapping[str, Any], call: str) -> None:
    """Refuse a loaded model where many loops are to share it.

    Raises:
        ConfigError: which model it is.
    """
    for name in ("policy", "reward_model"):
        if not isinstance(settings.get(name, ""), str | Path):
            raise ConfigError(f"{name}: {call} takes a name; save the model to a folder and give that")
