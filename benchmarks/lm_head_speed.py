"""Log-likelihoods of given tokens and their gradient in the states: block by block against whole logits, in one run.

    python benchmarks/lm_head_speed.py [--device cuda] [--dtype bfloat16]

A head of the embedded policy's size: 49,152 tokens, 576 numbers a state.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from foresighted.models.lm_head import log_p
from foresighted.models.memory import keep_freed

TIMES = 7


def seconds(read: Callable[[Tensor, Tensor], Tensor], states: Tensor, tokens: Tensor, *, gradient: bool) -> float:
    """Return the median time of a pass, with its gradient if asked."""
    found = []
    for _ in range(TIMES):
        own = states.clone().requires_grad_(gradient)
        began = time.perf_counter()
        said = read(own, tokens)
        if gradient:
            said.sum().backward()
        float(said.detach()[0])  # waits for the device
        found.append(time.perf_counter() - began)
    return median(found)


def main() -> None:
    """Print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    keep_freed()
    torch.manual_seed(0)
    where = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    head = nn.Linear(576, 49152, bias=False, **where).requires_grad_(False)
    ours = partial(log_p, head)

    def whole(states: Tensor, tokens: Tensor) -> Tensor:
        return -nn.functional.cross_entropy(head(states).float(), tokens, reduction="none")

    told = {}
    for rows in (256, 2048):
        states, tokens = torch.randn(rows, 576, **where), torch.randint(0, 49152, (rows,), device=args.device)
        for gradient in (False, True):
            own, other = (seconds(read, states, tokens, gradient=gradient) for read in (ours, whole))
            name = f"{rows} tokens, {'with' if gradient else 'without'} gradient"
            told[name] = {"blocks": round(own, 4), "whole": round(other, 4), "ratio": round(own / other, 2)}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
