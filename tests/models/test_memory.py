"""How much memory is left, and what becomes of memory that tensors no longer need."""

from __future__ import annotations

import resource

import pytest
import torch

from foresighted.models import memory

PAGES = 2**24 // 4096


def _faults() -> int:
    """Make and drop a tensor of 16 MiB; return how many pages came anew from the system for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**22).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(memory.ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc")
def test_what_is_freed_is_not_asked_for_again(monkeypatch):
    for name in ("MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    memory.keep_freed()
    counts = [_faults() for _ in range(60)]  # the heap finds its size within some ten of them
    assert sum(counts[-20:]) < 20 * PAGES / 10


def test_an_allocator_that_was_told_something_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setattr(memory, "_KEPT", {"none": (0, "no number")})  # would raise
    memory.keep_freed()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())  # another C library
    memory.keep_freed()


def test_what_tensors_hold_on_an_accelerator_is_not_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (5, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 60)
    assert memory.free_memory(torch.device("cuda")) == 5 + 70 - 60
    assert memory.free_memory(torch.device("cpu")) > 2**20
