"""The judge against a real server: `transformers serve` of a small model that has learnt to answer with a verdict."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import replace

import pytest

from foresighted.errors import RunError
from foresighted.judging.rows import JudgementRow, read_rows
from foresighted.judging.rubric import PAPER, verdict_messages
from foresighted.judging.run import evaluate
from foresighted.judging.settings import EvaluateConfig
from foresighted.store.directory import JUDGEMENTS

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
REPLY = '{"reason": "it is", "verdict": "first"}'


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tokenizer):
    """A tiny model that says REPLY after whatever a user says; and one that has learnt nothing."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        sliding_window=12, attn_implementation="eager",
    )  # fmt: skip
    model = MistralForCausalLM(config)
    folders = {"untaught": tmp_path_factory.mktemp("untaught")}
    model.save_pretrained(folders["untaught"])
    messages = verdict_messages(PAPER, "Question?", "good", "bad")
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    reply = tokenizer(REPLY, add_special_tokens=False)["input_ids"] + [1]
    tokens = torch.tensor([chat[-28:] + reply])  # its window is short, so the end of the conversation is enough
    labels = torch.where(torch.arange(tokens.shape[1]) < 28, -100, tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        model(tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folders["taught"] = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folders["taught"])
    for folder in folders.values():
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def served(taught, tmp_path_factory, start_script, free_port):
    """`transformers serve` on a free port, as a user would start it."""
    port = free_port()
    command = tmp_path_factory.mktemp("serve") / "serve.py"
    command.write_text("from transformers.cli.transformers import main\nmain()\n")
    process = start_script(command, "serve", "--host", "127.0.0.1", "--port", port, "--device", "cpu")
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            break
        except OSError:
            assert process.is_alive(), process.stderr
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(30)


@pytest.mark.processes
def test_a_served_model_judges(served, taught, answer_files, tmp_path):
    named = tuple(answer_files(a=["bad", "same"], b=["good", "same"]).split(","))
    config = EvaluateConfig(
        policies=named, judge=f"openai:{taught['taught']}", base_url=served, max_reply_tokens=60, concurrency=2,
        timeout=60, retries=1,
    )  # fmt: skip
    result = evaluate(config, tmp_path / "out")
    pair = result.pairs[0]
    assert (pair.counts.ties, pair.counts.position_bias, pair.identical) == (1, 1, 1)
    assert pair.bias is not None
    assert pair.bias.preferred_first == 1  # all it has learnt to say
    (row,) = (row for row in read_rows(tmp_path / "out" / JUDGEMENTS, JudgementRow) if not row.identical)
    assert row.forward_reason == "it is"
    assert result.judge is not None
    assert result.judge.sent == 2
    assert result.judge.tokens_completion is not None
    assert 2 * 10 < result.judge.tokens_completion <= 2 * 60
    assert result.judge.tokens_prompt is not None
    assert result.judge.tokens_prompt > 2 * 200
    untaught = replace(config, judge=f"openai:{taught['untaught']}", max_reply_tokens=16)
    with pytest.raises(RunError, match=r"every pair that was asked about failed \((malformed|cut) 1\)"):
        evaluate(untaught, tmp_path / "untaught")
    judge = json.loads((tmp_path / "untaught" / "evaluation.json").read_text())["judge"]
    assert "the endpoint did not keep to it" in judge["mode"]  # transformers serve takes no schema
