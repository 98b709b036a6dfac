"""`foresighted.train`: iterative RLHF on a language model, one arm."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from foresighted.alignment.comparison import summarise
from foresighted.api.arguments import Place, configured, directory, path_of
from foresighted.api.objects import resumed, separated
from foresighted.api.progress import Told, shown
from foresighted.api.result import Plot, Result, copied, frame, plot_of
from foresighted.settings import TrainConfig
from foresighted.store.records import CANDIDATES, HELDOUT, ROUNDS, RoundRow
from foresighted.store.rows import read_mappings

if TYPE_CHECKING:
    from foresighted.alignment.compared import Comparison

_NOT_COPIED = ("checkpoints", ".lock", "*.tmp")


class Recorded(Result):
    """A result whose directory is its data: one run, or a comparison of runs."""

    directory: Path

    def __init__(self, directory: str | Path) -> None:
        super().__init__(Path(directory))

    @cached_property
    def data(self) -> Comparison:
        """What the records say, as numbers."""
        return summarise(self.directory)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was seen, in words."""
        return self.data.sentences

    @classmethod
    def read(cls, directory: str | Path) -> Self:
        """Read a directory of records.

        Raises:
            DataError: it holds none.
        """
        made = cls(directory)
        _ = made.data
        return made

    def write(self, directory: str | Path) -> Path:
        """Copy the records and the trained policy, without checkpoints, to a new directory."""
        return copied(self.directory, directory, *_NOT_COPIED)

    def plot(self, name: str | None = None) -> Plot:
        """Return held-out true utility and proxy reward by round, or another chart of the report by its name."""
        from foresighted.reporting.comparison import comparison_page

        return plot_of(comparison_page(self.directory), name)


class Run(Recorded):
    """One run of iterative RLHF: `rounds`, `heldout` and `candidates` are its records as frames."""

    main: ClassVar[str] = "rounds"

    @cached_property
    def tables(self) -> dict[str, Any]:
        """The records by name, as pandas frames."""
        names = {"rounds": ROUNDS, "heldout": HELDOUT, "candidates": CANDIDATES}
        return {name: frame(read_mappings(self.directory / file)) for name, file in names.items()}

    @property
    def rounds(self) -> Any:
        """One row a round."""
        return self.tables["rounds"]

    @property
    def heldout(self) -> Any:
        """One row an answer to a held-out prompt."""
        return self.tables["heldout"]

    @property
    def candidates(self) -> Any:
        """One row a candidate."""
        return self.tables["candidates"]


def train(
    *,
    policy: Any = None,
    tokenizer: Any = None,
    reward_model: Any = None,
    reward_tokenizer: Any = None,
    prompts: Any = None,
    labels: Any = None,
    out: Place | None = None,
    resume: bool = False,
    preset: str | None = None,
    config: Place | None = None,
    start: Place | None = None,
    progress: Told | bool | None = None,
    **settings: Any,
) -> Run:
    """Run iterative RLHF; what `foresighted train` runs.

    Args:
        policy: a name as in the settings, or a loaded causal language model. Models are copied, never changed.
        tokenizer: of a loaded policy.
        reward_model: a name, or a loaded sequence classifier with one label.
        reward_tokenizer: of a loaded reward model.
        prompts: a name, texts, mappings with the key `prompt`, a `datasets.Dataset`, or a pandas or polars frame.
        labels: a name, a function(prompt, first, second) -> [0, 1], or a `types.Labeller` (of lists: `prompts` first).
        out: the run directory; None for a new folder under `runs/`, which the result's `directory` names.
        resume: go on with the run in `out`; objects are given again, and must be the same.
        preset: named starting point; file and keywords override it.
        config: settings in YAML; keywords override them.
        start: folder of references and first reward model that is shared with other runs.
        progress: told (name, done, total); True for a bar, False for none, None for a bar after two seconds.
        **settings: any setting of `TrainConfig`.

    Returns:
        The run: records as frames, sentences, charts.

    Raises:
        ForesightedError: bad input, in one line.
        Stopped: after an interrupt, with the round finished and saved.

    Example:
        >>> run = train(labels=lambda prompt, first, second: float(len(first) < len(second)))  # doctest: +SKIP
        >>> run.rounds[["round", "reward_chosen"]]  # doctest: +SKIP
    """
    given, named = separated(policy, tokenizer, reward_model, reward_tokenizer, prompts, labels)
    if resume and out is not None:
        given = resumed(given, named, path_of("out", out))
    merged = configured(TrainConfig, named | settings, out=out, resume=resume, preset=preset, config=config)
    given.check(merged)
    from foresighted.alignment.run import train as play

    with directory(out, "train") as place, shown(progress) as tell:
        tell(merged.steering, 0, merged.rounds)

        def on_round(row: RoundRow) -> None:
            tell(merged.steering, row.round, merged.rounds, note=f"reward {row.reward_chosen:.2f}")

        shared = None if start is None else path_of("start", start)
        play(merged, place, resume=resume, start=shared, on_round=on_round, given=given)
    return Run(place)
