"""Convert a stand-in GGUF in a process of its own, to be killed midway."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import transformers

from foresighted.alignment import embedded


def stand_in(tiny_llama: str) -> None:
    """Let transformers read the tiny Llama whatever GGUF it is asked for: reading the real one takes half a minute."""
    for name in ("AutoModelForCausalLM", "AutoTokenizer"):
        original = getattr(transformers, name).from_pretrained
        getattr(transformers, name).from_pretrained = lambda *_, gguf_file=None, _original=original: _original(
            tiny_llama
        )


def convert(tiny_llama: str, gguf: Path, cache: Path, kill: str | None) -> None:
    """Convert; with `kill`, die when that file has just been written, or at the rename."""
    stand_in(tiny_llama)
    sha256, rename = embedded._sha256, Path.rename

    def dying_hash(path: Path) -> str:
        if path.name == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return sha256(path)

    def dying_rename(self: Path, target: Path) -> Path:
        if kill == "rename":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    embedded._sha256, Path.rename = dying_hash, dying_rename
    embedded.converted(gguf, cache)
