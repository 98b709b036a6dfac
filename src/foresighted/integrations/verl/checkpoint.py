"""CheckpointCallback of verl: each checkpoint is tied to a version, and a run that goes on goes back to it."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from foresighted.integrations.verl.plan import Asked, check_capacity, check_manager

_log = logging.getLogger(__name__)
_FOLDER = "global_step_"


class CheckpointCallback:
    """What verl's trainer calls after each checkpoint (`trainer.checkpoint_callback_class`).

    It is made before anything else of the trainer, on its own process: so it is where a wrong configuration ends the
    run at once, and where the reward model goes back to the version of the checkpoint that training goes on from.

    Args:
        config: verl's, with a section `foresighted`.

    Raises:
        ForesightedError: what is wrong with it, or nothing is tied to the checkpoint.
    """

    def __init__(self, config: Any = None) -> None:
        self._asked = Asked.of(config)
        check_manager(config)
        check_capacity(config)
        self._owner = self._asked.connect()
        step = resumed(config)
        if step is not None:
            version = self._owner.wait("restore", self._asked.run, step)
            _log.warning("owner %r: back to version %d, tied to step %d", self._owner.name, version, step)

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **_: Any) -> None:
        """Tie the checkpoint to the version of now, in the owner's journal."""
        version = self._owner.wait("tie", self._asked.run, int(global_step))
        _log.warning("owner %r: version %d is tied to step %d", self._owner.name, version, global_step)


def resumed(config: Any) -> int | None:
    """Return the step that verl's trainer goes on from; None where it begins. It looks where verl looks."""
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None
    if trainer.resume_mode == "resume_path":
        folder: str | None = str(trainer.resume_from_path)
    else:
        found = importlib.import_module("verl.utils.checkpoint.checkpoint_manager")
        folder = found.find_latest_ckpt_path(os.path.abspath(trainer.default_local_dir))
    return None if folder is None else int(folder.split(_FOLDER)[-1])
