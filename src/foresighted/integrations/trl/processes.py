"""What several processes tell each other: JSON and tensors, never pickles, in an order that is the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from foresighted.errors import ForesightedError, RunError
from foresighted.models.fingerprint import quick_fingerprint

Result = TypeVar("Result")


class Processes:
    """The processes of a training job, or one alone. Every method but `share` is called by all of them.

    Args:
        device: where tensors must be for the backend (the trainer's device).
        alone: this process has nobody to talk to, however many train.
    """

    def __init__(self, device: torch.device, *, alone: bool = False) -> None:
        together = not alone and dist.is_available() and dist.is_initialized()
        self.count = dist.get_world_size() if together else 1
        """How many there are."""
        self.rank = dist.get_rank() if together else 0
        """Which one this is, from 0."""
        self._device = device if together and dist.get_backend() == "nccl" else torch.device("cpu")

    def share(self, rows: int) -> range:
        """Return the rows of this process: consecutive, as even as can be."""
        return range(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON value of every process, by rank."""
        if self.count == 1:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self._device)
        lengths = [torch.zeros(1, dtype=torch.long, device=self._device) for _ in range(self.count)]
        dist.all_gather(lengths, torch.tensor([len(mine)], device=self._device))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8, device=self._device)
        padded[: len(mine)] = mine
        every = [torch.zeros_like(padded) for _ in range(self.count)]
        dist.all_gather(every, padded)
        rows = zip(every, lengths, strict=True)
        return [json.loads(bytes(part[: int(length)].cpu().tolist())) for part, length in rows]

    def broadcast(self, value: Any) -> Any:
        """Return the JSON value of the first process."""
        return self.gather(value if self.rank == 0 else None)[0]

    def concatenate(self, mine: Tensor, rows: int) -> Tensor:
        """Return the rows of all processes in order, from what each made of its `share(rows)`."""
        if self.count == 1:
            return mine
        counts = [rows * (r + 1) // self.count - rows * r // self.count for r in range(self.count)]
        padded = torch.zeros(max(counts), *mine.shape[1:], dtype=mine.dtype, device=self._device)
        padded[: len(mine)] = mine.to(self._device)
        every = [torch.zeros_like(padded) for _ in counts]
        dist.all_gather(every, padded)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)]).to(mine.device)

    def attempt(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns here, once it went well everywhere: nobody waits for one that failed.

        Raises:
            RunError: with its words where it failed elsewhere; where it failed here, whatever it raised.
        """
        result: Result | None = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failed = error
        said = next((text for text in self.gather(failed and told(failed)) if text), None)
        if failed is not None:
            raise failed
        if said is not None:
            raise RunError(said)
        return cast(Result, result)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place."""
        for tensor in tensors if self.count > 1 else ():
            there = tensor.to(self._device)
            dist.all_reduce(there)
            tensor.copy_(there)

    def check_equal(self, tensors: Mapping[str, Tensor], what: str, when: str) -> None:
        """Stop everywhere if the tensors differ between processes.

        Raises:
            RunError: names the processes that differ from the first.
        """
        prints = self.gather(quick_fingerprint(tensors)) if self.count > 1 else []
        different = [rank for rank, other in enumerate(prints) if other != prints[0]]
        if different:
            raise RunError(
                f"{what}: after {when} its replica on process {', '.join(map(str, different))} differs from that of"
                " process 0; give every process the same weights and seed, and use one kind of device"
            )


def told(error: Exception) -> str:
    """Return an error in words for the other processes."""
    return str(error) if isinstance(error, ForesightedError) else f"{type(error).__name__}: {error}"
