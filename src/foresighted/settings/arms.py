"""Arms in text: a form of steering, with settings of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from foresighted.errors import ConfigError, nearest
from foresighted.settings.checks import Settings
from foresighted.settings.files import renamed
from foresighted.settings.text import from_text
from foresighted.steering.table import FORMS


def arm_from_text(arm: str, kind: type, known: tuple[str, ...], told: str) -> tuple[str, dict[str, Any]]:
    """Return form and own settings of an arm: `rlhf`, `practical:gamma=0.3`.

    Args:
        arm: as it is written.
        kind: configuration class of its settings.
        known: settings that an arm may have.
        told: what these are, for the message.

    Raises:
        ConfigError: an unknown form, or a setting that an arm cannot have.
    """
    form, *texts = arm.split(":")
    if form not in FORMS:
        raise ConfigError(f"arms: unknown arm {form!r}{nearest(form, FORMS)}; known are {', '.join(FORMS)}")
    own: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        (name,) = renamed({name: value}, known)
        if not equals or name not in known:
            raise ConfigError(
                f"arms: {arm!r} sets {text!r}; after a colon comes NAME=VALUE with NAME {told}{nearest(name, known)}"
            )
        own[name] = from_text(kind, name, value)
    return form, own


def each_once(config: Settings, **examples: str) -> Iterable[tuple[bool, str]]:
    """Return rules: these lists of a configuration hold something, each entry once.

    Args:
        config: has the lists.
        **examples: their names, each with what one may write.
    """
    for name, example in examples.items():
        values = getattr(config, name)
        twice = f"{name}: {','.join(map(str, values))} names one twice; name each once"
        yield bool(values), f"{name}: got none, name at least one, for example {example}"
        yield len(set(values)) == len(values), twice
