"""The frozen initial policy in a trainer: its responses as references, and what distance from it costs."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from foresighted.errors import NumericalError
from foresighted.influence import naive_gradients
from foresighted.integrations.trl import FPOConfig, FPOReward, checkpoint, references
from foresighted.integrations.trl.processes import Processes
from foresighted.integrations.trl.references import FrozenPolicy, missing
from foresighted.settings import read_yaml, to_mapping
from foresighted.store.records import CandidateRow, RoundRow
from foresighted.store.rows import read

ALONE = Processes(torch.device("cpu"))
PROMPTS = ["Why is the sky blue?"] * 2 + ["What is rain?"] * 2
RESPONSES = ["Light scatters.", "Because of air", "Water falls", "rain"]


class _Loader:
    """A trainer's data loader, as far as a name is claimed for it."""


def _policy(source, *, trained=True, **settings):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source)
    return get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=not trained, lora_alpha=64, **settings)
    )


def _begun(fpo, out, model, tokenizer, *, loader=None, **args):
    told = {"device": torch.device("cpu"), "output_dir": str(out), "num_generations": 2, "should_save": True}
    state = SimpleNamespace(global_step=0, log_history=[])
    fpo.on_train_begin(
        SimpleNamespace(**told | args), state, None, model=model.train(), processing_class=tokenizer,
        train_dataloader=loader,
    )  # fmt: skip
    return fpo


def _records(out):
    folder = out / "foresighted"
    return read(folder / "rounds.jsonl", RoundRow), read(folder / "candidates.jsonl", CandidateRow)


def prefer(prompts, first, second):
    return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


def test_a_prompts_references_are_written_once_and_equal_in_any_batch(tiny_llama, tokenizer, monkeypatch):
    asked = []
    sample = references.Policy.sample
    monkeypatch.setattr(
        references.Policy, "sample", lambda self, prompts, *rest, **more: asked.append(list(prompts))
        or sample(self, prompts, *rest, **more),
    )  # fmt: skip
    config = FPOConfig(references=3, reference_max_new_tokens=6)
    one, other = (FrozenPolicy(_policy(tiny_llama), tokenizer, None, config, ALONE) for _ in range(2))
    talk = [{"role": "user", "content": "Who?"}]
    found = one.write([*PROMPTS, talk])
    assert asked == [[PROMPTS[0], PROMPTS[2], talk]]
    assert found[0] == found[1] != found[2]
    assert [len(own) for own in found] == [3] * 5
    assert found[0][0] != found[0][1]
    assert found[4][0][0]["role"] == "assistant"
    one.write([PROMPTS[2], "Another?"])
    assert asked[1:] == [["Another?"]]
    assert other.write(["Another?", PROMPTS[0]])[1] == found[0]
    alone = FrozenPolicy(
        _policy(tiny_llama), tokenizer, None, FPOConfig(references=1, reference_max_new_tokens=6), ALONE
    )
    assert alone.write(PROMPTS[:1]) == [found[0][:1]]  # as 0.2 wrote it


def test_references_beyond_the_limit_are_forgotten(tiny_llama, tokenizer, monkeypatch):
    monkeypatch.setattr(references, "MOST_PROMPTS", 2)
    frozen = FrozenPolicy(_policy(tiny_llama), tokenizer, None, FPOConfig(reference_max_new_tokens=2), ALONE)
    first = frozen.write(["a", "b", "c"])
    assert len(frozen.kept) == 2
    assert frozen.write(["a"]) == first[:1]
    assert len(frozen.kept) == 2


TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if quick %}quick:{% else %}slow:{% endif %}"
)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("conversational", [False, True])
def test_a_log_ratio_is_that_of_a_plain_pass(own, conversational, tiny_llama, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)  # the session's
    model = _policy(tiny_llama, lora_dropout=0.5).train()
    base = _policy(tiny_llama, trained=False) if own else None
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS] if conversational else PROMPTS
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in RESPONSES[:3]] + [[]]
    frozen = FrozenPolicy(model, tokenizer, base, FPOConfig(), ALONE, chunk=3, template={"quick": True})
    found = frozen.log_ratio(prompts, RESPONSES, ids)
    assert model.training
    model.eval()
    form = {"tokenize": False, "add_generation_prompt": True, "quick": True}
    for prompt, own_ids, ratio in zip(prompts, ids, found, strict=True):
        text = tokenizer.apply_chat_template(prompt, **form) if conversational else prompt
        before = tokenizer(text, add_special_tokens=not conversational)["input_ids"]
        tokens = torch.tensor([[*before, *own_ids]])
        with torch.no_grad():
            now = model(tokens).logits.log_softmax(-1)
            with model.disable_adapter():
                then = model(tokens).logits.log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(own_ids) - 1)
        wanted = sum(float((now - then)[0, i, token]) for i, token in zip(places, own_ids, strict=True))
        assert ratio == pytest.approx(wanted, abs=2e-4)
    assert abs(found[0]) > 1e-2
    assert found[3] == 0


def test_a_log_ratio_that_is_not_finite_is_one_line(tiny_llama, tokenizer):
    model = _policy(tiny_llama)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"log pi - log pi_ref of a response to prompt '.*' is nan; lower"):
        FrozenPolicy(model, tokenizer, None, FPOConfig(), ALONE).log_ratio(PROMPTS, RESPONSES, None)


def test_what_cannot_be_read_is_said(tiny_llama, monkeypatch):
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert missing(plain, None, begins=True) == ("the policy has no adapter to switch off",) * 2
    assert missing(plain, plain, begins=True) == ("", "")
    fresh, trained = _policy(tiny_llama, trained=False), _policy(tiny_llama)
    assert missing(fresh, None, begins=True) == ("", "")
    assert missing(trained, None, begins=False) == ("", "")
    assert all("adapter was trained before" in why for why in missing(trained, None, begins=True))
    monkeypatch.setattr(references, "sharded", lambda: True)
    assert all("in shards" in why for why in missing(fresh, None, begins=True))
    policy, ratio = missing(fresh, plain, begins=True)
    assert (policy, "in shards" in ratio) == ("", True)


@pytest.mark.parametrize(("scope", "train"), [("head", "head"), ("all", "all")])
@pytest.mark.parametrize("unit", ["raw", "share"])
def test_a_score_is_charged_for_influence_on_the_mean_reference_and_for_distance(
    scope, train, unit, tmp_path, tiny_llama, tiny_llama_reward, tokenizer
):
    """Written out: one autograd call a response and reference, and the log-ratio as it is recorded."""
    config = FPOConfig(
        steering="practical", gamma=0.3, gamma_unit="raw", scope=scope, reward_model_train=train, references=3,
        reference_max_new_tokens=6, kl_coefficient=0.5, kl_unit=unit, reward_model_pairs="all",
    )  # fmt: skip
    model = _policy(tiny_llama, trained=False)
    fpo = _begun(FPOReward(str(tiny_llama_reward), config, prefer), tmp_path, model, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    judge = fpo.follower.reward_model
    frozen = fpo._frozen.write(PROMPTS)

    def read_by_judge(prompts, texts):
        return naive_gradients(
            judge.network, judge.encode(prompts, texts), scope=scope, forward=lambda i: judge.network(**i)
        )

    reward, g = read_by_judge(PROMPTS, RESPONSES)
    against = [read_by_judge([prompt] * 3, own) for prompt, own in zip(PROMPTS, frozen, strict=True)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]
    ratio = fpo._frozen.log_ratio(PROMPTS, RESPONSES, ids)
    spread = float(reward.view(2, 2).double().var(1, correction=0).mean().sqrt()) if unit == "share" else 1.0
    got = fpo(PROMPTS, RESPONSES, completion_ids=ids)
    rounds, candidates = _records(tmp_path)
    for i, row in enumerate(candidates):
        penalty = 0.3 * float(g[i] @ (g[i] - against[i][1].mean(0)))
        assert got[i] == pytest.approx(float(reward[i]) - penalty - 0.5 * spread * ratio[i], rel=1e-3, abs=1e-3)
        assert row.score == pytest.approx(got[i], rel=1e-6, abs=1e-5)
        assert row.kl == pytest.approx(ratio[i], abs=1e-5)
        assert row.reference_reward == pytest.approx(float(against[i][0].mean()), rel=1e-3, abs=1e-4)
        assert row.label == prefer([""], [RESPONSES[i]], [frozen[i][0]])[0]
    assert rounds[0].kl == pytest.approx(sum(ratio) / 4, abs=1e-5)
    margins = torch.stack([own - read[0][0] for own, read in zip(reward, against, strict=True)])  # labels': the first
    assert rounds[0].win_predicted == pytest.approx(float(margins.sigmoid().mean()), abs=1e-3)


def test_of_two_objects_of_one_trainer_one_takes_the_distance_off(
    tmp_path, tiny_llama, tiny_deberta, tokenizer, caplog
):
    model, loader = _policy(tiny_llama, trained=False), _Loader()
    both = [FPOReward(str(tiny_deberta), FPOConfig(), prefer, name=name) for name in ("helpful", "harmless")]
    for fpo in both:
        _begun(fpo, tmp_path, model, tokenizer, loader=loader)
    assert [fpo.config.kl_coefficient for fpo in both] == [0.3, 0.0]
    assert "FPOReward 'helpful' of the same trainer takes the distance off already" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, [0.2, 0.1]])
def test_another_trainers_beta_counts_in_place_of_ours(beta, tmp_path, tiny_llama, tiny_deberta, tokenizer, caplog):
    model = _policy(tiny_llama, trained=False)
    fpo = _begun(FPOReward(str(tiny_deberta), FPOConfig(), prefer), tmp_path, model, tokenizer, beta=beta)
    assert fpo.config.kl_coefficient == 0
    assert caplog.text.count("the trainer's own beta") == 1
    fpo(PROMPTS, RESPONSES)
    assert all(row.kl is None for row in _records(tmp_path)[1])


SMALL = {
    "per_device_train_batch_size": 8, "max_completion_length": 6, "logging_steps": 1, "report_to": "none",
    "use_cpu": True, "bf16": False, "learning_rate": 0.05, "disable_tqdm": True, "num_generations": 4,
    "gradient_checkpointing": False, "save_strategy": "no",
}  # fmt: skip


def _train(kind, out, source, fpo, data, *, adapter=True, resume=False, callbacks=(), **settings):
    import trl

    args = getattr(trl, f"{kind}Config")(output_dir=str(out), **SMALL | settings)
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(source), reward_funcs=fpo, callbacks=[fpo, *callbacks], args=args, train_dataset=data,
        peft_config=LoraConfig(task_type="CAUSAL_LM") if adapter else None,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


@pytest.mark.slow
def test_the_default_in_grpo_and_its_resumed_run(tmp_path, tiny_llama, tiny_deberta, prompts, labels, monkeypatch):
    drawn = []
    write = FrozenPolicy._drawn
    monkeypatch.setattr(FrozenPolicy, "_drawn", lambda self, asked: drawn.append(len(asked)) or write(self, asked))
    config = FPOConfig(reference_max_new_tokens=6, reward_model_learning_rate=1e-3, kl_unit="raw")

    def made():
        return FPOReward(str(tiny_deberta), config, labels)

    def copied(args, state, control, **_):
        if state.global_step == 3:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    from transformers import TrainerCallback

    kill = type("Kill", (TrainerCallback,), {"on_step_end": staticmethod(copied)})()
    more = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    data = prompts("conversational", 16)
    fpo = made()
    trainer = _train("GRPO", tmp_path / "whole", tiny_llama, fpo, data, callbacks=[kill], **more)
    rounds, candidates = _records(tmp_path / "whole")
    assert drawn == [2] * 4
    assert read_yaml(tmp_path / "whole" / "foresighted" / "config.yaml")["reference"] == "policy"
    assert all(row.kl == pytest.approx(0, abs=1e-5) for row in candidates[:8])  # a fresh adapter
    assert max(abs(row.kl) for row in candidates[8:]) > 1e-3
    for row in candidates:
        assert row.score == pytest.approx(row.reward - row.penalty - 0.3 * row.kl, abs=1e-5)
    for row, entry in zip(rounds, trainer.state.log_history, strict=False):
        assert entry["reward"] == pytest.approx(row.reward - row.penalty - 0.3 * row.kl, abs=1e-4)
        assert entry["fpo/kl"] == pytest.approx(row.kl, abs=1e-4)
    _train("GRPO", tmp_path / "killed", tiny_llama, made(), data, resume=True, **more)
    saved = ("adapter_model.safetensors", "foresighted/state.json", "foresighted/reward_model.safetensors")
    kept = "foresighted/candidates.jsonl", "foresighted/rounds.jsonl", *(f"checkpoint-4/{name}" for name in saved)
    for name in kept:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert len(fpo._frozen.kept) == 8


@pytest.mark.slow
def test_the_distance_counts_once_in_rloo(tmp_path, tiny_llama, tiny_deberta, prompts, labels, caplog):
    """RLOO's own beta is .05; with 0 ours is taken off, in the same place and form."""
    for out, settings, told in (("trainers", {}, 1), ("ours", {"beta": 0.0}, 0)):
        caplog.clear()
        fpo = FPOReward(str(tiny_deberta), FPOConfig(reference_max_new_tokens=4, kl_unit="raw"), labels)
        _train("RLOO", tmp_path / out, tiny_llama, fpo, prompts(), max_steps=2, **settings)
        assert caplog.text.count("the trainer's own beta 0.05 holds") == told
        rounds, candidates = _records(tmp_path / out)
        assert all((row.kl is None) == bool(told) for row in candidates)
        assert all((row.kl is None) == bool(told) for row in rounds)
        cost = [0.0 if row.kl is None else 0.3 * row.kl for row in candidates]
        for row, distance in zip(candidates, cost, strict=True):
            assert row.score == pytest.approx(row.reward - row.penalty - distance, abs=1e-5)


@pytest.mark.slow
def test_without_an_adapter_one_line_says_what_is_left_out(tmp_path, tiny_llama, tiny_deberta, prompts, labels, caplog):
    fpo = FPOReward(str(tiny_deberta), FPOConfig(), labels)
    _train("GRPO", tmp_path, tiny_llama, fpo, prompts(), adapter=False, max_steps=1)
    assert caplog.text.count("reference is leave-one-out and kl_coefficient is 0") == 1
    assert "give the trainer a beta" in caplog.text
    assert all(row.kl is None for row in _records(tmp_path)[1])
    assert to_mapping(fpo.config)["reference"] == "leave-one-out"


@pytest.mark.slow
def test_a_checkpoint_that_does_not_know_references_goes_on_as_it_was(
    tmp_path, tiny_llama, tiny_deberta, prompts, labels, caplog, monkeypatch
):
    def earlier(config):
        return {name: value for name, value in to_mapping(config).items() if name not in FPOConfig.earlier}

    more = {"save_strategy": "steps", "save_steps": 1}
    old = FPOConfig(reference="leave-one-out", kl_coefficient=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "to_mapping", earlier)
        fpo = FPOReward(str(tiny_deberta), old, labels)
        _train("GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=1, **more)
    fpo = FPOReward(str(tiny_deberta), FPOConfig(), labels)
    _train("GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=2, resume=True, **more)
    assert fpo.config.reference == "leave-one-out"
    assert "the checkpoint is of an earlier version" in caplog.text
    rounds, candidates = _records(tmp_path)
    assert [row.round for row in rounds] == [1, 2]
    assert all(row.kl is None for row in candidates)
