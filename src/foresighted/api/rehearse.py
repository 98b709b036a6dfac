"""`foresighted.rehearse`: would my loop collapse, on my prompts and with my judge, and what would prevent it?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from foresighted.alignment.given import Given
from foresighted.alignment.rehearsal_text import advice, sentences
from foresighted.alignment.rehearsed import Rehearsal as Data
from foresighted.api.arguments import Place, configured, directory, path_of
from foresighted.api.compare import Comparison, names_of_models
from foresighted.api.objects import resumed, separated
from foresighted.api.progress import Told, shown
from foresighted.api.result import Plot, frame, plot_of
from foresighted.errors import RunError
from foresighted.judging.rehearse import Ended, check_prompts, read_rehearsal
from foresighted.labels.labellers import knows_utility
from foresighted.settings import RehearseConfig
from foresighted.settings.rehearse import usual
from foresighted.store.directory import LOOPS

_log = logging.getLogger(__name__)


class Rehearsal(Comparison):
    """What a rehearsal says: three sentences, `arms` as the main table, and `command` and `lines` that follow."""

    main: ClassVar[str] = "arms"
    ended: Ended | None = None
    """What ended it, or some of its loops, before the last round; None where it was read, or came to its end."""

    @cached_property
    def found(self) -> Data:
        """What the records say of arms, as numbers."""
        return read_rehearsal(self.directory)

    @property
    def data(self) -> Any:
        """The comparison of its loops, as numbers."""
        return self.found.comparison

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the baseline does here and when it falls; what prevents it at equal labels; what that costs."""
        return sentences(self.found)

    @property
    def command(self) -> str:
        """The `foresighted train` that follows from the best arm; empty where nothing follows."""
        return advice(self.found)[1]

    @property
    def lines(self) -> str:
        """The lines of Python with its `FPOConfig`, for a trainer of TRL; empty where nothing follows."""
        return advice(self.found)[2]

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Tables of the loops by name, as pandas frames; `win_rates` where the judge knows no utility."""
        found = dict(Comparison(self.directory / LOOPS).tables)
        rows = [frame(one.wins, arm=one.label) for one in self.found.standings if one.wins]
        if rows:
            from foresighted.api.result import joined

            found["win_rates"] = joined(rows)
        return found

    def plot(self, name: str | None = None) -> Plot:
        """Return the curves of the arms, or another chart of the page by its name."""
        from foresighted.reporting.rehearsal import rehearsal_page

        return plot_of(rehearsal_page(self.directory), name)


class Plan(NamedTuple):
    """What a call would play."""

    config: RehearseConfig
    """Its arms named."""
    given: Given
    announced: str
    """That in words: loops, answers and labels a round, time."""


def rehearse(
    *,
    prompts: Any = None,
    labels: Any = None,
    out: Place | None = None,
    resume: bool = False,
    config: Place | None = None,
    progress: Told | bool | None = None,
    **settings: Any,
) -> Rehearsal:
    """Play loops side by side on a small policy in one's own setting; what `foresighted rehearse` runs.

    Args:
        prompts: as in `train`.
        labels: as in `train`; one without a utility is asked for win rates in the end.
        out: the directory; None for a new folder under `runs/`.
        resume: go on with the rehearsal in `out`.
        config: settings in YAML, for example those of one's own loop.
        progress: told (what, done, of how many); True, False or None as in `train`.
        **settings: `minutes`, `arms`, `seeds`, and any setting of `TrainConfig`.

    Returns:
        The rehearsal; as far as it was played where an interrupt or an error ended it, or some loops, which `ended`
        says.

    Raises:
        ForesightedError: bad input, in one line.
        Stopped: after an interrupt, with nothing to report yet.

    Example:
        >>> rehearse(reward_model="my-reward-model", labels=prefer, minutes=30).sentences  # doctest: +SKIP
    """
    told = settings | {"prompts": prompts, "labels": labels}
    planned = plan(told, out=out, resume=resume, config=config)
    found = played(planned, out=out, resume=resume, progress=progress)
    if isinstance(found.ended, RunError):
        _log.warning("%s", found.ended)
    return found


def plan(settings: Mapping[str, Any], *, out: Place | None, resume: bool, config: Place | None) -> Plan:
    """Return what `rehearse` would play; nothing is written.

    Raises:
        ForesightedError: as `rehearse`.
    """
    names_of_models(settings, "rehearse")
    own = {name: value for name, value in settings.items() if name not in ("prompts", "labels")}
    given, named = separated(None, None, None, None, settings.get("prompts"), settings.get("labels"))
    if resume and out is not None:
        given = resumed(given, named, path_of("out", out))
    merged = configured(RehearseConfig, named | own, out=out, resume=resume, config=config, usual=usual)
    given.check(merged.train)
    check_prompts(merged.train, given)
    utility = knows_utility(merged.train.labels, given.labels)
    merged = merged.with_arms(utility=utility)
    return Plan(merged, given, merged.announced(utility=utility))


def played(planned: Plan, *, out: Place | None, resume: bool, progress: Told | bool | None) -> Rehearsal:
    """Play what was planned; arguments, result and errors are those of `rehearse`."""
    from foresighted.judging.rehearse import rehearse as play

    with directory(out, "rehearse") as place, shown(progress) as tell:
        ended = play(planned.config, place, resume=resume, on_progress=tell, given=planned.given)
    found = Rehearsal(place)
    found.ended = ended
    return found
