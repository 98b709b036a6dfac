"""One line that has a monitor see what an engine logs: TRL's trainer, verl's `Tracking`, OpenRLHF's trainer."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foresighted.errors import ConfigError, one_line
from foresighted.integrations.monitoring.monitor import MetricsMonitor

_log = logging.getLogger("foresighted.monitor")
_OPENRLHF = "save_logs_and_checkpoints"


def watch(
    loop: Any, trusted: str | None = None, reward: str | None = None, *, out: str | Path | None = None, **settings: Any
) -> Any:
    """Have a monitor watch what a loop logs.

    Args:
        loop: a TRL trainer; verl's `Tracking` or an instance of it; OpenRLHF's trainer or its class. A class is watched
            in all its instances that are made in this process, each by a monitor of its own.
        trusted: metric to trust. None: of a TRL trainer the one reward function of weight 0, or `fpo/utility` with
            FPOReward; else symptoms only.
        reward: metric that is optimised; None: the usual names.
        out: directory for `collapse.jsonl`; None: the output directory of a TRL trainer, else none.
        **settings: of `CollapseMonitor` for a TRL trainer (`action`, `window`, `webhook`, ...), else of
            `MetricsMonitor`.

    Returns:
        The monitor; of a class, the class.

    Raises:
        ConfigError: a loop of no known kind, or a setting that is unknown or out of range.

    Example:
        >>> monitor = fpo.watch(trainer)  # doctest: +SKIP
    """
    try:
        if callable(getattr(loop, "add_callback", None)):
            return _watch_trl(loop, trusted, reward, settings)
        place = None if out is None else Path(out)
        for name, read in ((_OPENRLHF, _of_openrlhf), ("log", _of_verl)):
            if callable(getattr(loop, name, None)):
                make = functools.partial(MetricsMonitor, trusted, reward, out=place, **settings)
                return _wrap(loop, name, read, make)
    except TypeError as error:
        raise ConfigError(f"watch: {error}") from None
    raise ConfigError(
        f"watch: got {type(loop).__name__}, expected a TRL trainer, verl's Tracking, an OpenRLHF trainer, or the class"
        " of one of the last two; of any other loop give MetricsMonitor.log each step's metrics"
    )


def _watch_trl(trainer: Any, trusted: str | None, reward: str | None, settings: Mapping[str, Any]) -> Any:
    from foresighted.integrations.trl.monitor import CollapseMonitor

    monitor = CollapseMonitor(trusted or _trusted_of(trainer), reward, **settings)
    trainer.add_callback(monitor)
    return monitor


def _trusted_of(trainer: Any) -> str | None:
    """Return the metric of the one reward function of weight 0, else FPOReward's labels; None where there is none."""
    from foresighted.integrations.trl.reward import FPOReward

    weights = getattr(trainer.args, "reward_weights", None) or ()
    names = getattr(trainer, "reward_func_names", ())
    idle = [name for name, weight in zip(names, weights, strict=False) if weight == 0]
    if len(idle) == 1:
        return f"rewards/{idle[0]}/mean"
    ours = any(isinstance(function, FPOReward) for function in getattr(trainer, "reward_funcs", ()))
    return "fpo/utility" if ours else None


def _of_openrlhf(call: inspect.BoundArguments) -> tuple[Any, Any]:
    said = call.arguments
    dicts = [value for name, value in said.items() if isinstance(value, Mapping) and name != "client_states"]
    return said.get("global_step"), dicts[0] if dicts else None


def _of_verl(call: inspect.BoundArguments) -> tuple[Any, Any]:
    return call.arguments.get("step"), call.arguments.get("data")


def _wrap(
    loop: Any,
    name: str,
    read: Callable[[inspect.BoundArguments], tuple[Any, Any]],
    make: Callable[[], MetricsMonitor],
) -> Any:
    original = getattr(loop, name)
    signature = inspect.signature(original)
    one = None if isinstance(loop, type) else make()
    if one is None:
        make()  # settings that are wrong are told now, not in the middle of a run

    @functools.wraps(original)
    def seen(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        try:
            monitor = one or _own(args[0], make)
            step, values = read(signature.bind(*args, **kwargs))
            if isinstance(values, Mapping) and isinstance(step, int):
                monitor.log(step, {str(key): _plain(value) for key, value in values.items()})
        except Exception as error:  # whatever becomes of the monitor, the loop goes on
            _log.warning("the monitor could not read a log (%s); the loop goes on unwatched", one_line(error))
        return result

    setattr(loop, name, seen)
    return one or loop


def _own(instance: Any, make: Callable[[], MetricsMonitor]) -> MetricsMonitor:
    """Return the monitor of an instance, made at its first log."""
    known: MetricsMonitor | None = vars(instance).get("foresighted_monitor")
    if known is None:
        known = instance.foresighted_monitor = make()
    return known


def _plain(value: Any) -> Any:
    """Return a number that NumPy or torch holds as Python's."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
