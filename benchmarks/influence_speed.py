"""What the gradient products of a reward model cost, as ratios measured in one run.

A reward model of the size of DeBERTa-v3-base with random weights scores one reference and N candidates of 40 tokens:

    head    rewards and products       against  one plain batched forward, without gradients
    lora    the same, adapters         against  one batched forward and backward to the adapters
    all     the same, every parameter  against  one batched forward and backward to every parameter
    each                               against  one autograd call a response (the order of work of published code)

Sides take turns, and a ratio is the median of the ratios of the turns. Memory is the peak of a process of its own: of
the device's memory where there is one. Launches are operations on the device in one call, without views.

    python benchmarks/influence_speed.py [--candidates 8,32,128] [--turns 5] [--threads 2]
        [--device auto|cpu|cuda] [--dtype float32|bfloat16]
    python benchmarks/influence_speed.py --device meta    # launches alone, without computing anything
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from launches import Launches
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from foresighted.influence import GradientProducts, select
from foresighted.store.environment import processor

TOKENS = 40
LOOP_TURNS = {8: 2, 32: 1}  # of the slowest side; it grows in proportion, and is not run beyond
Inputs = dict[str, Tensor]


def reward_model(scope: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a classifier of DeBERTa-v3-base's shape; for scope lora with adapters of rank 16 on every linear layer."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=128100, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        num_labels=1, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False, type_vocab_size=0, pad_token_id=0,
    )  # fmt: skip
    with torch.device(device if device == "meta" else "cpu"):
        model: nn.Module = DebertaV2ForSequenceClassification(config)
        if scope == "lora":
            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="SEQ_CLS"))
    return model.to(device, dtype).eval()


def inputs_of(rows: int, device: str = "cpu") -> Inputs:
    """Return token ids of `rows` responses, without padding."""
    ids = torch.randint(5, 128000, (rows, TOKENS), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def plain_forward(model: nn.Module, _scope: str, inputs: Inputs) -> None:
    """Score without gradients."""
    with torch.no_grad():
        model(**inputs)


def forward_backward(model: nn.Module, scope: str, inputs: Inputs) -> None:
    """Take one batched gradient of the summed rewards."""
    parameters = select(model, scope)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    model(**inputs).logits.sum().backward()
    model.zero_grad(set_to_none=True)


def row_by_row(model: nn.Module, scope: str, inputs: Inputs) -> None:
    """Score each response on its own, with one autograd call, and take S and G against the last one."""
    parameters = list(select(model, scope).values())

    def gradient(row: int) -> tuple[Tensor, ...]:
        reward = model(**{name: tensor[row : row + 1] for name, tensor in inputs.items()}).logits.sum()
        return torch.autograd.grad(reward, parameters, allow_unused=True)

    def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        return sum(float(a.flatten() @ b.flatten()) for a, b in zip(one, other, strict=True) if a is not None)

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = len(inputs["input_ids"])
    reference = gradient(rows - 1)
    for row in range(rows - 1):
        own = gradient(row)
        _ = dot(own, own), dot(own, reference)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    finish = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    finish()
    began = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - began


def launches(model: nn.Module, scope: str, candidates: int, device: str) -> dict[str, object]:
    """Return the operations of a call of ours and of the plain pass, and how often ours waits for the device."""
    inputs = inputs_of(candidates + 1, device)
    engine = GradientProducts(model, scope=scope, chunk=candidates + 1 if device == "meta" else None)
    with Launches(device):
        for _ in range(3):  # checks the layers; on meta no gradient is seen to differ from 0, so three times
            engine.against_reference(inputs, prompts=1)
    plain = plain_forward if scope == "head" else forward_backward
    with Launches(device) as anyway:
        plain(model, scope, inputs)
    with Launches(device) as ours:
        engine.against_reference(inputs, prompts=1)
    counts = {"ours": ours.operations.total(), plain.__name__: anyway.operations.total()}
    return {
        "candidates": candidates,
        "launches": counts,
        "ours / plain": round(ours.operations.total() / anyway.operations.total(), 3),
        "values to the host": ours.to_host.total(),
    }


def measure(model: nn.Module, scope: str, candidates: int, turns: int, device: str) -> dict[str, object]:
    """Return the seconds of each side and the ratios of one scope and number of candidates."""
    counted = launches(model, scope, candidates, device)
    if device == "meta":
        return counted
    inputs = inputs_of(candidates + 1, device)
    engine = GradientProducts(model, scope=scope)
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: engine.against_reference(inputs, prompts=1),
        "forward": lambda: plain_forward(model, scope, inputs),
        "forward_backward": lambda: forward_backward(model, scope, inputs),
        "row_by_row": lambda: row_by_row(model, scope, inputs),
    }
    del sides["forward_backward" if scope == "head" else "forward"]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    first_call = timed(sides["ours"])  # checks the layers against autograd
    for name in sides:
        if name != "row_by_row":
            sides[name]()
    for turn in range(turns):
        for name, work in sides.items():
            if name != "row_by_row" or turn < LOOP_TURNS.get(candidates, 0):
                seconds[name].append(timed(work))

    def ratio(over: str, under: str) -> float | None:
        pairs = list(zip(seconds[over], seconds[under], strict=False))
        return round(statistics.median(a / b for a, b in pairs), 3) if pairs else None

    against = "forward" if scope == "head" else "forward_backward"
    print(f"{scope}, {candidates} candidates: done", file=sys.stderr)
    return counted | {
        f"ours / {against}": ratio("ours", against),
        "row_by_row / ours": ratio("row_by_row", "ours"),
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items() if values},
        "first_call_seconds": round(first_call, 3),
        "layers_read_row_by_row": len(engine.slow),
    }


def peak(side: str, scope: str, candidates: int, how: Sequence[str]) -> float:
    """Return the peak resident memory in MB of a process that does one side once (ours with its first-call check)."""
    command = [sys.executable, __file__, "--peak", side, "--scope", scope, "--candidates", str(candidates)]
    done = subprocess.run([*command, *how], capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(side: str, scope: str, candidates: int, device: str, dtype: torch.dtype) -> None:
    """Do one side once and print the peak in MB of the device's memory, or of this process's resident one (Linux)."""
    model, inputs = reward_model(scope, device, dtype), inputs_of(candidates + 1, device)
    if side == "ours":
        GradientProducts(model, scope=scope).against_reference(inputs, prompts=1)
    elif side == "forward_backward":
        forward_backward(model, scope, inputs)
    if device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    status = Path("/proc/self/status").read_text()
    print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", default="8,32,128")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "meta"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--scope", help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    counts = [int(part) for part in args.candidates.split(",")]
    dtype = getattr(torch, args.dtype)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if args.peak:
        print_peak(args.peak, args.scope, counts[0], device, dtype)
        return
    result: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device, "dtype": args.dtype,
        "processor": processor(), "python": platform.python_version(), "torch": torch.__version__,
        "threads": args.threads, "turns": args.turns, "tokens": TOKENS,
    }  # fmt: skip
    for scope in ("head", "lora", "all"):
        model = reward_model(scope, device, dtype)
        turns = [args.turns if count <= 8 or device == "cuda" else 1 for count in counts]
        result[scope] = [measure(model, scope, *each, device) for each in zip(counts, turns, strict=True)]
        del model
    if device == "meta":
        print(json.dumps(result, indent=1))
        return
    how = ["--threads", str(args.threads), "--device", device, "--dtype", args.dtype]
    sides = {side: peak(side, "all", counts[0], how) for side in ("model", "forward_backward", "ours")}
    result["peak_memory_all"] = {
        "candidates": counts[0],
        "megabytes": {side: round(value) for side, value in sides.items()},
        "ours beyond forward_backward": round(sides["ours"] / sides["forward_backward"] - 1, 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
