"""What holds for every configuration class, so that a new field or a new class is covered by itself."""

from __future__ import annotations

import logging
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from foresighted.errors import ConfigError
from foresighted.games import LINEAR, NETWORK
from foresighted.games.run import Request
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.owner import OwnerConfig
from foresighted.integrations.trl.config import FPOConfig
from foresighted.judging.settings import EvaluateConfig
from foresighted.settings import (
    OLD_NAMES,
    CompareConfig,
    RehearseConfig,
    Settings,
    TrainConfig,
    choices,
    files,
    from_mapping,
    hints,
    names,
    read_yaml,
    settings,
    to_mapping,
    to_yaml,
)

OLD_FILES = Path(__file__).with_name("files_of_0_2")
NEEDED = {
    EvaluateConfig: {"policies": ("a=b", "c=d")},
    CompareConfig: {"train": TrainConfig()},
    RehearseConfig: {"train": TrainConfig()},
    ServeConfig: {"owner": OwnerConfig()},
    Request: {"game": LINEAR, "base": LINEAR.settings()},
}
"""What a class cannot be made without."""
POOL = {
    "arms": [("rlhf",), ("practical:gamma=0.25", "relaxed"), ("exact", "proximal")],
    "policies": [("a=b",), ("a@1=b", "a@2=c: d")],
    "sweep": [("gamma=0.1,0.2",), ("action_cost=0:1:lin3", "gamma=1,2")],
    "scope": ["head", "head:2", "last:3", "all"],
    "lora_layers": ["all", "last:1", "last:12"],
    "base_url": [None, "http://localhost:8000/v1"],
    "judge": ["openai:MODEL", "openai:OTHER"],
}
"""Values of settings whose text has a form of its own."""
WORDS = ("a", "5e-4", "true", "1:16", "a: b", "ü - #", "0x1f", "~x", "yes", "2024-01-01", "'")


def _kinds(kind: type = Settings) -> list[type]:
    return [each for one in kind.__subclasses__() for each in (one, *_kinds(one))]


KINDS = [kind for kind in _kinds() if kind.__module__.startswith("foresighted.")]


def _made(kind: type, **changes: Any) -> Any:
    return kind(**{**NEEDED.get(kind, {}), **changes})


def _again(config: Any, mapping: dict[str, Any]) -> Any:
    if isinstance(config, Request):
        return from_mapping(Request, mapping, {"base": type(config.base)}, game=config.game)
    return from_mapping(type(config), mapping)


def _is_number(kind: type, name: str) -> bool:
    hint = hints(kind)[name]
    return bool({int, float} & {hint, *get_args(hint)})


def _outside(kind: type, name: str, source: random.Random) -> list[Any]:
    """Return generated values that the range of a setting excludes."""
    bounds, hint = settings(kind)[name].metadata["bounds"], hints(kind)[name]
    whole = float not in (hint, *get_args(hint))
    step = float(source.randint(1, 9)) if whole else source.choice([1e-6, 0.5, 1e3]) * source.random() + 1e-9
    found = [bounds[words] + step * sign for words, sign in (("at least", -1), ("at most", 1)) if words in bounds]
    found += [bounds[words] for words in ("above", "below") if words in bounds]
    found = [round(value) for value in found] if whole else [*found, math.nan, -math.inf]
    if not whole and settings(kind)[name].metadata["finite"]:
        found.append(math.inf)
    return [(value,) for value in found] if get_origin(hint) is tuple else found


def _inside(kind: type, name: str, source: random.Random) -> Any:
    """Return a generated value that a setting may have."""
    bounds, hint = settings(kind)[name].metadata["bounds"], hints(kind)[name]
    if name in POOL:
        return source.choice(POOL[name])
    if known := choices(kind, name):
        return source.choice(known)
    if type(None) in get_args(hint) and source.random() < 0.3:
        return None
    low = bounds.get("at least", bounds.get("above", -5))
    high = bounds.get("at most", bounds.get("below", low + 300))
    parts = (hint, *get_args(hint))
    if get_origin(hint) is tuple:
        return tuple(source.sample(range(50) if int in parts else WORDS, 3))
    if bool in parts:
        return source.random() < 0.5
    if float in parts:
        return low + (high - low) * (0.001 + 0.99 * source.random())
    return source.randint(math.ceil(low), math.floor(high)) if int in parts else source.choice(WORDS)


def test_classes_of_all_commands_are_here():
    assert {kind.__name__ for kind in KINDS} >= {
        "TrainConfig", "CompareConfig", "RehearseConfig", "EvaluateConfig", "FPOConfig", "LinearSettings",
        "NetworkSettings", "Request", "OwnerConfig", "ServeConfig",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_range_is_enforced(kind):
    source = random.Random(kind.__name__)
    for name in settings(kind):
        for value in _outside(kind, name, source) if _is_number(kind, name) else [object()]:
            with pytest.raises(ConfigError) as caught:
                _made(kind, **{name: value})
            assert f"{name}: got " in str(caught.value), (name, value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_is_enforced_and_names_the_nearest(kind):
    for name in settings(kind):
        for known in choices(kind, name):
            with pytest.raises(ConfigError) as caught:
                _made(kind, **{name: f"{known}x"})
            assert f"{name}: got '{known}x' (did you mean " in str(caught.value)
            assert all(one in str(caught.value) for one in choices(kind, name))


@pytest.mark.parametrize("kind", KINDS)
def test_all_faults_stand_in_one_line(kind):
    source = random.Random(0)
    found = {name: _outside(kind, name, source) for name in settings(kind) if _is_number(kind, name)}
    bad = {name: values[-1] for name, values in found.items() if values}
    with pytest.raises(ConfigError) as caught:
        _made(kind, **bad)
    assert all(f"{name}: got " in str(caught.value) for name in bad)
    assert "\n" not in str(caught.value)
    needed = {} if kind is Request else to_mapping(_made(kind))
    with pytest.raises(ConfigError) as caught:
        from_mapping(kind, needed | {k: list(v) if isinstance(v, tuple) else v for k, v in bad.items()} | {"gama": 1})
    assert all(f"{name}: " in str(caught.value) for name in ("gama", *bad))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_the_whole_configuration(kind):
    changed = set()
    for seed in range(24):
        source = random.Random(seed)
        config = _made(kind)
        for name in source.sample([*settings(kind)], len(settings(kind))):
            try:
                config = replace(config, **{name: (value := _inside(kind, name, source))})
            except ConfigError:
                continue  # what other settings exclude
            changed |= {name} if value != settings(kind)[name].default else set()
        assert _again(config, yaml.safe_load(to_yaml(config))) == config
    left = {"gamma_unit"} if kind is LINEAR.settings else set()  # that game has no share
    assert changed == set(settings(kind)) - left


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", OLD_NAMES)
def test_every_old_name_is_renamed(kind, old, caplog):
    now = OLD_NAMES[old]
    if now not in settings(kind):
        return
    files._told.clear()
    config = _made(kind)
    value = _inside(kind, now, random.Random(1))
    with caplog.at_level(logging.WARNING):
        assert _again(config, to_mapping(config) | {now: value}) == replace(config, **{now: value})
        assert not caplog.records
        old_way = {name: given for name, given in to_mapping(config).items() if name != now} | {old: value}
        assert _again(config, old_way) == replace(config, **{now: value})
    assert [record.getMessage() for record in caplog.records] == [f"{old} is now called {now}"]
    with pytest.raises(ConfigError, match=f"{old}: is now called {now}, which is given too"):
        _again(config, old_way | {now: value})
    with pytest.raises(ConfigError, match=f"{old}: is now called {now}"):
        _made(kind, **{old: value})


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_argument_names_the_nearest(kind):
    name = next(iter(settings(kind)))
    with pytest.raises(ConfigError, match=rf"{name}x: unknown setting .did you mean '{name}'"):
        _made(kind, **{f"{name}x": 1})


@pytest.mark.parametrize("path", sorted(OLD_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_files_of_0_2_are_read(path, caplog):
    files._told.clear()
    held = read_yaml(path)
    with caplog.at_level(logging.WARNING):
        if (game := {"linear": LINEAR, "network": NETWORK}.get(path.stem)) is not None:
            assert held.pop("game") == game.name
            config: Any = from_mapping(Request, held, {"base": game.settings}, game=game)
        else:
            kind = {"train": TrainConfig, "compare": CompareConfig, "evaluate": EvaluateConfig, "trl": FPOConfig}
            config = from_mapping(kind[path.stem], held)
    held = {name: value for name, value in held.items() if name not in config.beside}
    made = to_mapping(config)
    assert set(held) - set(OLD_NAMES) <= set(made) <= set(names(type(config), _inside_of(config)))
    for name, value in held.items():
        if name not in ("seeds", "sweep"):  # in a sweep's file they are text
            assert made[OLD_NAMES.get(name, name)] == value
    assert len(caplog.records) <= 1
    told = " ".join(record.getMessage() for record in caplog.records)
    assert {name for name in OLD_NAMES if f"{name} is now called" in told} == set(held) & set(OLD_NAMES)


def test_old_names_in_arms_and_sweeps_are_told_in_the_one_line_of_their_file(caplog):
    files._told.clear()
    held = {
        "arms": ["rlhf", "unrolled:unroll_steps=3"],
        "sweep": ["unroll_rate=0.01,0.02"],
        "steering_label": "baseline",
    }
    with caplog.at_level(logging.WARNING):
        request = from_mapping(Request, held, {"base": LINEAR.settings}, game=LINEAR)
    assert [sweep.name for sweep in request.sweeps] == ["unrolled_rate"]
    (record,) = caplog.records
    for new in ("steering_labels", "unrolled_steps", "unrolled_rate"):
        assert f"is now called {new}" in record.getMessage()


def _inside_of(config: Any) -> dict[str, Any]:
    return {"base": type(config.base)} if isinstance(config, Request) else {}


def test_what_files_of_0_2_mean():
    held = read_yaml(OLD_FILES / "network.yaml")
    held.pop("game")
    request = from_mapping(Request, held, {"base": NETWORK.settings}, game=NETWORK)
    assert (request.seeds, request.base.unrolled_rate, request.base.gamma) == ((0, 3, 5), 0.02, 0.02)
    assert request.arms[0] == "unrolled:unroll_steps=3"  # the arm keeps its name, which its records have
    trl = from_mapping(FPOConfig, read_yaml(OLD_FILES / "trl.yaml"))
    assert (trl.seed, trl.label_timeout, trl.weight) == (7, math.inf, 1.0)
    assert from_mapping(TrainConfig, read_yaml(OLD_FILES / "train.yaml")).weight == 10.0
    compare = from_mapping(CompareConfig, read_yaml(OLD_FILES / "compare.yaml"))
    assert compare.seeds == (0, 3)
    assert [compare.arm(arm, 0).gamma for arm in compare.arms] == [0.3, 2.0]
