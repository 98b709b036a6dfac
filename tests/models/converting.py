"""Convert a stand-in GGUF in a process of its own, to be killed midway: run with TINY_LLAMA, GGUF, CACHE, KILL."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import transformers

from foresighted.models import embedded
from foresighted.store import files


def stand_in(tiny_llama: str, set_attribute=setattr) -> None:
    """Let transformers read the tiny Llama whatever GGUF it is asked for: reading the real one takes half a minute."""
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        own = kind.from_pretrained
        set_attribute(kind, "from_pretrained", lambda *_, gguf_file=None, _own=own: _own(tiny_llama))


def convert(tiny_llama: str, gguf: Path, cache: Path, kill: str | None) -> None:
    """Convert; with `kill`, die when that file has just been written, or at the rename."""
    stand_in(tiny_llama)
    sha256, rename = files.sha256, Path.rename

    def dying_hash(path: Path) -> str:
        if path.name == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return sha256(path)

    def dying_rename(self: Path, target: Path) -> Path:
        if kill == "rename":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    files.sha256, Path.rename = dying_hash, dying_rename
    embedded.converted(gguf, cache)


if __name__ == "__main__":
    convert(TINY_LLAMA, GGUF, CACHE, KILL)  # noqa: F821 (of runpy)
