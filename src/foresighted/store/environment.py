"""What a run ran on: versions and hardware, beside its records."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foresighted import __version__
from foresighted.store.rows import write_json

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
ENVIRONMENT = "environment.json"
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")


def write_environment(out: Path, device: torch.device | None = None, libraries: Sequence[str] = ()) -> None:
    """Write versions and hardware to `environment.json`; warn where a resumed run finds other ones.

    `device` is that of the models, where there are any; `libraries` are named besides those that every run uses.
    """
    found: dict[str, Any] = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found["foresighted"] = __version__  # the installed metadata of a checkout may be older
    for name in (*_LIBRARIES, *libraries):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found |= {"processor": processor(), "cores": os.cpu_count()}
    if device is not None:
        import torch

        accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        found |= {"device": accelerator, "threads": torch.get_num_threads()}
    path = out / ENVIRONMENT
    if path.exists():
        before = _read(path)
        if before is None:
            _log.warning("%s cannot be read: whether versions changed is not known; it is written anew", path)
        elif changed := [name for name in found if before.get(name, found[name]) != found[name]]:
            _log.warning("resumed under another %s: the last bits may differ", ", ".join(changed))
    write_json(path, found)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
