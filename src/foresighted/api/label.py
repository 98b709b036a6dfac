"""`foresighted.label`: a page on which people label the pairs that a run asks about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foresighted.api.arguments import Place, configured, path_of
from foresighted.integrations.people.settings import LabelConfig
from foresighted.labels.quality import Quality, quality


def label(
    queue: Place, *, config: Place | None = None, tell: Callable[[str], None] = print, **settings: Any
) -> Quality | None:
    """Serve the page until it is stopped; what `foresighted label` serves.

    Args:
        queue: the folder that a run asks in, or the directory of that run.
        config: settings in YAML; keywords override them.
        tell: told each address to open.
        **settings: any setting of `LabelConfig`.

    Returns:
        How far the labels can be trusted once it is stopped; None where nobody has answered.

    Raises:
        ForesightedError: bad input, in one line.

    Example:
        >>> fpo.label("people/", people=("ann", "bob"))  # doctest: +SKIP
    """
    made = configured(LabelConfig, settings, out=None, resume=False, config=config)
    from foresighted.integrations.people.serve import queue_of, serve

    folder = queue_of(path_of("queue", queue))
    serve(folder, made, tell)
    return quality(folder.answers(), len(folder.questions()))
