"""The batched, cache-sharing policy against naive twins: one row at a time, no padding, no cache."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace

import pytest
import torch

from foresighted.alignment.update import loss_of
from foresighted.errors import ModelError
from foresighted.models import noise
from foresighted.models.loading import load_plain_policy, load_policy
from foresighted.models.policy import Decoding, Policy

PROMPTS = ["Why is the sky blue?", "Rain?", "Can fish sleep at night, or do they swim all the time?"]


@pytest.fixture(scope="module")
def policy(tiny):
    policy = load_policy(replace(tiny, max_new_tokens=8), torch.device("cpu"))
    torch.manual_seed(3)
    for name, parameter in policy.trainable().items():  # an adapter that does something
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return policy


def _keys(n):
    return [noise.key("test", p, i) for p in PROMPTS for i in range(n)]


def _naive_sample(policy, prompt: str, row_key: int, *, frozen: bool) -> list[int]:
    ids = policy._encode([prompt]).tokens[0].tolist()
    decoding = policy.decoding
    sampler = noise.NucleusSampler(
        torch.tensor([row_key]), temperature=decoding.temperature or 1.0, top_p=decoding.top_p
    )
    end, written = policy.tokenizer.eos_token_id, []
    for step in range(decoding.max_new_tokens):
        with torch.no_grad():
            if frozen:
                with policy.model.disable_adapter():
                    logits = policy.model(input_ids=torch.tensor([ids + written])).logits[:, -1]
            else:
                logits = policy.model(input_ids=torch.tensor([ids + written])).logits[:, -1]
        if step < decoding.min_new_tokens:
            logits[:, end] = -torch.inf
        written.append(int((sampler(None, logits) if decoding.temperature else logits).argmax(-1)))
        if written[-1] == end:
            break
    return written


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_sampling_equals_the_naive_twin(policy, frozen):
    rollout = policy.sample(PROMPTS, 3, _keys(3), frozen=frozen)
    for i, row_key in enumerate(_keys(3)):
        want = _naive_sample(policy, PROMPTS[i // 3], row_key, frozen=frozen)
        assert rollout.tokens[i][rollout.mask[i].bool()].tolist() == want


def test_adapter_and_frozen_policy_differ(policy):
    assert policy.sample(PROMPTS, 3, _keys(3)).texts != policy.sample(PROMPTS, 3, _keys(3), frozen=True).texts


def test_same_noise_same_words_whatever_the_batch(policy):
    together = policy.sample(PROMPTS, 2, _keys(2)).texts
    alone = [policy.sample([PROMPTS[1]], 1, [_keys(2)[3]]).texts[0]]
    assert alone == [together[3]]


def _naive_log_p(policy, prompt: str, tokens: list[int]) -> torch.Tensor:
    ids = policy._encode([prompt]).tokens[0].tolist()
    logits = policy.model(input_ids=torch.tensor([ids + tokens])).logits[0].log_softmax(-1)
    return torch.stack([logits[len(ids) - 1 + i, token] for i, token in enumerate(tokens)])


def test_log_likelihood_and_loss_equal_the_naive_twin(policy):
    rollout = policy.sample(PROMPTS, 2, _keys(2))
    prompts = [p for p in PROMPTS for _ in range(2)]
    rows = [row[keep.bool()].tolist() for row, keep in zip(rollout.tokens, rollout.mask, strict=True)]
    naive = [_naive_log_p(policy, p, row) for p, row in zip(prompts, rows, strict=True)]
    got = policy.log_likelihood(prompts, rollout, chunk=4)
    torch.testing.assert_close(got, torch.stack([n.sum() for n in naive]).detach(), rtol=1e-4, atol=1e-4)
    loss, want = (
        loss_of(policy.token_log_p(prompts, rollout, share=False), rollout),
        -torch.stack([n.mean() for n in naive]).mean(),
    )
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)
    parameters = list(policy.trainable().values())
    for mine, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_response_is_cut_after_its_end_token(policy):
    end, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
    rollout = policy._cut(torch.tensor([[7, 8, end, 9], [7, 8, 9, 10]]))
    assert rollout.tokens.tolist() == [[7, 8, end, pad], [7, 8, 9, 10]]
    assert rollout.lengths() == [3, 4]


def test_a_text_that_ended_is_read_with_the_token_that_ended_it(policy, tokenizer, monkeypatch):
    plain = policy.encode_responses(["It is.", "", "It is."])
    ids = plain.tokens[0, plain.mask[0].bool()].tolist()
    for ends in (tokenizer.eos_token_id, [5, tokenizer.eos_token_id], [5]):
        monkeypatch.setattr(policy.model.generation_config, "eos_token_id", ends)
        found = policy.encode_responses(["It is.", "", "It is."], ended=[True, True, False])
        end = 5 if ends == [5] else tokenizer.eos_token_id
        rows = [row[keep.bool()].tolist() for row, keep in zip(found.tokens, found.mask, strict=True)]
        assert rows == [[*ids, end], [end], ids]


def test_no_second_begin_token_and_system_prompt(policy):
    def read(policy, prompt="Rain?"):
        return policy.tokenizer.decode(policy._encode([prompt]).tokens[0])

    rendered = "<|user|>Rain?<|end|><|assistant|>"
    assert read(policy) == rendered
    brief = Policy(policy.model, policy.tokenizer, None, policy.decoding, system_prompt="Be brief.")
    assert read(brief) == "<|system|>Be brief.<|end|>" + rendered
    assert read(brief, [{"role": "user", "content": "Rain?"}]) == rendered
    assert read(Policy(policy.model, policy.tokenizer, None, policy.decoding, chat=False)) == "Rain?"


def test_greedy_is_the_most_probable_token_and_needs_no_noise(policy):
    greedy = Policy(policy.model, policy.tokenizer, None, Decoding(8, min_new_tokens=2, temperature=0.0))
    tiny_nucleus = Policy(policy.model, policy.tokenizer, None, Decoding(8, min_new_tokens=2, top_p=1e-9))
    rollout = greedy.sample(PROMPTS, 1, _keys(1))
    assert rollout.texts == tiny_nucleus.sample(PROMPTS, 1, _keys(1)).texts == greedy.sample(PROMPTS, 1, [0] * 3).texts
    for i, prompt in enumerate(PROMPTS):
        assert rollout.tokens[i][rollout.mask[i].bool()].tolist() == _naive_sample(greedy, prompt, 0, frozen=False)


def test_a_policy_without_adapter_is_its_own_reference(tiny, tiny_llama):
    decoding = Decoding(tiny.max_new_tokens, tiny.min_new_tokens, tiny.temperature, tiny.top_p)
    plain = load_plain_policy(str(tiny_llama), torch.device("cpu"), decoding)
    assert not any(".lora_" in name for name, _ in plain.model.named_parameters())
    texts = plain.sample(PROMPTS, 1, _keys(1)).texts
    assert texts == plain.sample(PROMPTS, 1, _keys(1), frozen=True).texts
    assert texts == load_policy(tiny, torch.device("cpu")).sample(PROMPTS, 1, _keys(1)).texts


def test_full_fine_tuning_keeps_a_frozen_copy(tiny):
    policy = load_policy(replace(tiny, policy_train="all"), torch.device("cpu"))
    before = policy.sample(PROMPTS, 1, _keys(1), frozen=True).texts
    assert policy.sample(PROMPTS, 1, _keys(1)).texts == before
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.mul_(1.3)
    assert policy.sample(PROMPTS, 1, _keys(1), frozen=True).texts == before
    assert policy.sample(PROMPTS, 1, _keys(1)).texts != before


def test_tokenizer_without_chat_template_says_so(tiny_llama, tmp_path, tiny, caplog):
    import shutil

    folder = tmp_path / "plain"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").unlink()
    policy = load_policy(replace(tiny, policy=str(folder)), torch.device("cpu"))
    assert "no chat template" in caplog.text
    assert policy.sample(["Rain?"], 2, [1, 2]).texts


def _with(policy, tokenizer, **settings):
    return Policy(policy.model, tokenizer, None, policy.decoding, **settings)


def _templated(tokenizer, template):
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


@pytest.mark.parametrize("begins", [False, True])
def test_no_end_token_after_a_prompt(policy, tokenizer, begins):
    from tokenizers.processors import TemplateProcessing

    own = _templated(tokenizer, None)
    core = own.backend_tokenizer
    tokens = [(name, core.token_to_id(name)) for name in ("<unk>", "<|end|>")]
    core.post_processor = TemplateProcessing(single=f"{'<unk> ' if begins else ''}$A <|end|>", special_tokens=tokens)
    own.bos_token = "<unk>" if begins else None
    read = _with(policy, own, chat=False)
    front = "<unk>" if begins else ""
    for prompt in ("Rain?", "Rain?<|end|>", "Why?<|end|>Rain?"):  # what the user wrote stays
        assert own.decode(read.reader.ids(prompt)) == front + prompt
    assert len(read.reader.ids("")) == 1


def test_what_a_template_refuses_is_said_when_the_policy_is_made(policy, tokenizer, told, caplog):
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    own = _templated(tokenizer, refuse + tokenizer.chat_template)
    assert _with(policy, own).reader.ids("Rain?")
    with pytest.raises(ModelError) as error:
        _with(policy, own, system_prompt="Be brief.", setting="policies")
    told(error, "system_prompt:", "policies", "chat template", "System role not supported", "leave --system-prompt out")
    for template, said in (
        ("{% if", "TemplateSyntaxError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("Hello.", "leaves the prompt out"),
    ):
        with pytest.raises(ModelError) as error:
            _with(policy, _templated(tokenizer, template))
        told(error, "policy: the chat template", said)
    users = "{% for message in messages if message['role'] == 'user' %}{{ message['content'] }}{% endfor %}"
    _with(policy, _templated(tokenizer, users), system_prompt="Be brief.")
    assert "leaves it out" in caplog.text
    _with(policy, _templated(tokenizer, None), system_prompt="Be brief.")
    assert "without the system prompt" in caplog.text


def test_a_template_without_end_is_stopped_and_the_timer_is_as_before(policy, tokenizer, told, monkeypatch):
    monkeypatch.setattr("foresighted.models.bounded.SECONDS", 0.2)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(ModelError) as error:
        _with(policy, _templated(tokenizer, loop))
    told(error, "policy: the chat template", "more than 0.2 seconds")
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == before


def test_tokens_that_the_model_does_not_have_are_refused(policy, tokenizer, told):
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<new>"])
    with pytest.raises(ModelError) as error:
        _with(policy, own).reader.ids("Rain <new>?")
    told(error, "tokenizer: token", str(len(own) - 1), "embedding", str(len(own) - 1))
