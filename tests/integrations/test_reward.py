"""FPOReward without a trainer: what a penalty is made of, whom it asks, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.influence import naive_gradients
from foresighted.integrations.trl import FileQueue, FPOConfig, FPOReward
from foresighted.integrations.trl.groups import Batch, groups
from foresighted.labels.pair import Pair, every_place, label_means
from foresighted.store.records import CandidateRow, RoundRow
from foresighted.store.rows import read
from foresighted.texts import text_of

PROMPTS = ["Why is the sky blue?"] * 3 + ["What is rain?"] * 3
RESPONSES = ["Light scatters.", "Because of air", "It just is blue, blue.", "Water falls", "Clouds cool", "rain"]
PREFERENCE = {"Light scatters.": 3.0, "Because of air": 1.0, "It just is blue, blue.": 0.0, "Water falls": 2.0,
              "Clouds cool": 2.5, "rain": 0.5}  # fmt: skip


def prefer(prompts, first, second):
    """A Bradley-Terry judge."""
    return [torch.tensor(PREFERENCE[a] - PREFERENCE[b]).sigmoid().item() for a, b in zip(first, second, strict=True)]


def begun(fpo, out, size=3):
    args = SimpleNamespace(device=torch.device("cpu"), output_dir=str(out), num_generations=size, should_save=True)
    state = SimpleNamespace(global_step=0, log_history=[])
    fpo.on_train_begin(args, state, None, model=SimpleNamespace(training=True), processing_class=None)
    return fpo


def rounds(out):
    return read(out / "foresighted" / "rounds.jsonl", RoundRow)


@pytest.mark.parametrize(("scope", "train"), [("head", "head"), ("all", "all")])
def test_a_score_is_the_reward_less_the_penalty_of_its_ring_of_labels(scope, train, tmp_path, tiny_llama_reward):
    """Written out: one autograd call a response, sigma(r_i - mean of the others) against the mean of two labels."""
    config = FPOConfig(steering="relaxed", gamma=0.3, scope=scope, reward_model_train=train)
    fpo = begun(FPOReward(str(tiny_llama_reward), config, prefer), tmp_path)
    model = fpo.follower.reward_model
    texts = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    form = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
    plain = model.tokenizer(texts, add_special_tokens=False, **form)
    assert torch.equal(plain["input_ids"], model.encode(PROMPTS, RESPONSES)["input_ids"])  # what GRPOTrainer feeds
    reward, g = naive_gradients(
        model.network, model.encode(PROMPTS, RESPONSES), scope=scope, forward=lambda i: model.network(**i)
    )
    got = fpo(PROMPTS, RESPONSES)
    for i in range(6):
        others = [j for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]
        label = sum(prefer([""] * 2, [RESPONSES[i]] * 2, [RESPONSES[j] for j in others])) / 2
        product = g[i] @ (g[i] - g[others].mean(0))
        residual = (reward[i] - reward[others].mean()).sigmoid() - label
        assert got[i] == pytest.approx(float(reward[i] - 0.3 * product * residual), rel=1e-3, abs=1e-4)
    assert read(tmp_path / "foresighted" / "candidates.jsonl", CandidateRow)[0].label == pytest.approx(
        sum(prefer([""] * 2, [RESPONSES[0]] * 2, RESPONSES[1:3])) / 2
    )


@pytest.mark.slow
def test_the_reward_model_learns_the_labels_it_paid_for(tmp_path, tiny_deberta):
    config = FPOConfig(steering="rlhf", reward_model_pairs="all", reward_model_train="all",
                       reward_model_learning_rate=1e-3, sampled_labels=False)  # fmt: skip
    fpo = begun(FPOReward(str(tiny_deberta), config, prefer), tmp_path)
    for _ in range(25):
        fpo(PROMPTS, RESPONSES)
    losses = [row.reward_model_loss for row in rounds(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]
    assert rounds(tmp_path)[-1].labels_total == 150
    assert rounds(tmp_path)[-1].reward_model_accuracy > 0.8


def test_sampled_labels_are_bits_of_the_same_preference(tmp_path, tiny_deberta):
    config = FPOConfig(steering="rlhf", reward_model_pairs="all", sampled_labels=True)
    fpo = begun(FPOReward(str(tiny_deberta), config, prefer), tmp_path)
    fpo(PROMPTS, RESPONSES)
    labels = [row.label for row in read(tmp_path / "foresighted" / "candidates.jsonl", CandidateRow)]
    assert set(labels) <= {0.0, 0.5, 1.0}  # each response stands in two pairs


def test_equal_responses_are_neither_asked_about_nor_learnt_from(tmp_path, tiny_deberta):
    asked = []

    def judge(prompts, first, second):
        asked.extend(prompts)
        return [0.9] * len(prompts)

    fpo = begun(FPOReward(str(tiny_deberta), FPOConfig(steering="proximal"), judge), tmp_path)
    fpo(PROMPTS[:3], ["the same"] * 3)
    assert asked == []
    assert rounds(tmp_path)[0].reward_model_loss is None
    assert rounds(tmp_path)[0].overconfidence is None
    fpo(PROMPTS[:3], ["the same", "the same", "another"])
    assert len(asked) == 2


def test_an_async_labeller_is_awaited(tmp_path, tiny_deberta):
    async def judge(prompts, first, second):
        await asyncio.sleep(0.01)
        return prefer(prompts, first, second)

    both = []
    for labels in (prefer, judge):
        fpo = begun(FPOReward(str(tiny_deberta), FPOConfig(steering="proximal"), labels), tmp_path / str(len(both)))
        both.append(fpo(PROMPTS, RESPONSES))
    assert both[0] == both[1]


@pytest.mark.slow
def test_an_async_labeller_keeps_its_event_loop_and_its_time_limit(tmp_path, tiny_deberta):
    loops = []

    async def judge(prompts, first, second):
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(30 if len(loops) == 3 else 0)
        return prefer(prompts, first, second)

    config = FPOConfig(steering="proximal", label_timeout=0.5, label_retries=0)
    fpo = begun(FPOReward(str(tiny_deberta), config, judge), tmp_path)
    began = time.monotonic()
    for _ in range(3):
        fpo(PROMPTS, RESPONSES)
    assert len(set(map(id, loops))) == 1
    assert [row.labels_failed for row in rounds(tmp_path)] == [0, 0, 6]
    assert time.monotonic() - began < 20


def test_a_slow_utility_is_left_out_of_the_records(tmp_path, tiny_deberta):
    class Slow:
        def utility(self, prompts, responses):
            time.sleep(1.0)
            return [0.0] * len(prompts)

        def __call__(self, prompts, first, second):
            return prefer(prompts, first, second)

    fpo = begun(FPOReward(str(tiny_deberta), FPOConfig(label_timeout=0.2), Slow()), tmp_path)
    fpo(PROMPTS, RESPONSES)
    assert rounds(tmp_path)[0].labels == 2
    assert rounds(tmp_path)[0].utility_chosen is None


class Unreliable:
    """Fails in the way it is told to, the first times it is asked."""

    def __init__(self, failures, how):
        self.left, self.how, self.calls = failures, how, 0

    def __call__(self, prompts, first, second):
        self.calls += 1
        if self.left:
            self.left -= 1
            if self.how == "late":
                time.sleep(1.0)
            else:
                raise ConnectionError("the judge is away")
        return prefer(prompts, first, second)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["late", "raises"])
def test_a_labeller_that_fails_is_asked_again_then_its_round_is_skipped(
    how, tmp_path, tiny_deberta, monkeypatch, caplog
):
    monkeypatch.setattr("foresighted.labels.asking.FIRST_WAIT", 0.01)
    config = FPOConfig(steering="proximal", label_timeout=0.25, label_retries=2)
    judge = Unreliable(2, how)
    fpo = begun(FPOReward(str(tiny_deberta), config, judge), tmp_path)
    plain = fpo(PROMPTS, RESPONSES)
    assert (judge.calls, rounds(tmp_path)[0].labels_failed) == (3, 0)
    assert sum("attempt" in record.message for record in caplog.records) == 2

    judge.left = 3
    weights = fpo.follower.reward_model.head.weight.detach().clone()
    bare = fpo(PROMPTS, RESPONSES)
    row = rounds(tmp_path)[1]
    assert (row.labels, row.labels_failed, row.penalty, row.reward_model_loss) == (0, 6, 0.0, None)
    assert torch.equal(weights, fpo.follower.reward_model.head.weight)
    assert bare != plain
    assert all(r.label is None for r in read(tmp_path / "foresighted" / "candidates.jsonl", CandidateRow)[6:])


def test_a_queue_is_answered_rounds_later(tmp_path, tiny_deberta):
    queue = FileQueue(tmp_path / "queue")
    config = FPOConfig(steering="practical", gamma=0.1, reward_model_learning_rate=1e-2)
    fpo = begun(FPOReward(str(tiny_deberta), config, queue), tmp_path)
    fpo(PROMPTS, RESPONSES)
    assert rounds(tmp_path)[0].reward_model_loss is None
    questions = [json.loads(line) for line in (queue.folder / "questions.jsonl").read_text().splitlines()]
    assert [set(q) for q in questions] == [{"id", "round", "prompt", "first", "second"}] * 2
    answers = [{"id": q["id"], "label": prefer([""], [q["first"]], [q["second"]])[0]} for q in questions]
    (queue.folder / "labels.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    fpo(PROMPTS, RESPONSES)
    row = rounds(tmp_path)[1]
    assert row.reward_model_loss is not None
    assert row.labels_total == 2
    assert all(name.startswith("2-") for name in fpo.follower.buffer.pending)
    (queue.folder / "labels.jsonl").write_text('{"id": "2-0"}\n')
    with pytest.raises(DataError, match=r"labels.jsonl, line 1: expected"):
        fpo(PROMPTS, RESPONSES)


def test_answers_of_another_run_in_the_same_folder_are_not_taken(tmp_path, tiny_deberta):
    queue = FileQueue(tmp_path / "queue")
    for number, words in enumerate((RESPONSES, [f"{text} indeed" for text in RESPONSES])):
        fpo = begun(FPOReward(str(tiny_deberta), FPOConfig(), queue), tmp_path / str(number))
        fpo(PROMPTS, words)
        asked = [json.loads(line) for line in (queue.folder / "questions.jsonl").read_text().splitlines()]
        with (queue.folder / "labels.jsonl").open("w") as file:
            file.writelines(json.dumps({"id": q["id"], "label": 1.0}) + "\n" for q in asked)
    assert len({q["id"] for q in asked}) == 4
    assert fpo.follower.buffer.counts.labels_total == 0  # its own answers come with the next call
    fpo(PROMPTS, words)
    assert fpo.follower.buffer.counts.labels_total == 2


def test_a_queue_that_cannot_be_reached_is_asked_again_and_ends_the_run_at_last(tmp_path, tiny_deberta, monkeypatch):
    monkeypatch.setattr("foresighted.labels.asking.FIRST_WAIT", 0.01)

    class Away(FileQueue):
        def submit(self, questions):
            raise ConnectionError("the queue is away")

    config = FPOConfig(label_retries=1, label_failures=3)
    fpo = begun(FPOReward(str(tiny_deberta), config, Away(tmp_path)), tmp_path)
    for _ in range(2):
        fpo(PROMPTS, RESPONSES)
    assert [row.labels_failed for row in rounds(tmp_path)] == [2, 2]
    assert not fpo.follower.buffer.pending
    with pytest.raises(RunError, match="no answer in 3 rounds"):
        fpo(PROMPTS, RESPONSES)


def test_pairs_beyond_the_limit_of_a_queue_are_given_up_and_counted(tmp_path, tiny_deberta):
    config = FPOConfig(steering="practical", pending_pairs=3)
    fpo = begun(FPOReward(str(tiny_deberta), config, FileQueue(tmp_path / "queue")), tmp_path)
    for _ in range(3):
        fpo(PROMPTS, RESPONSES)
    assert (len(fpo.follower.buffer.pending), fpo.follower.buffer.counts.given_up) == (3, 3)


def test_a_new_run_in_the_same_folder_moves_old_records_aside(tmp_path, tiny_deberta):
    for _ in range(2):
        begun(FPOReward(str(tiny_deberta), FPOConfig(), prefer), tmp_path)(PROMPTS, RESPONSES)
    assert len(rounds(tmp_path)) == 1
    assert (tmp_path / "foresighted-1" / "rounds.jsonl").exists()


def test_rings_hold_each_response_twice():
    for size in (2, 3, 5):
        pairs = every_place(2, size, with_reference=False)
        assert len(pairs) == 2 * (size if size > 2 else 1)
        means = label_means([Pair("", "", "", "", label=1.0, place=place) for place in pairs], 2, size)
        assert all(value is not None for row in means for value in row)
        assert sum(means[0]) == pytest.approx(size / 2)  # what one side wins the other loses


def _batch(prompts, sizes):
    return Batch(prompts, prompts, [1] * len(prompts), None, range(0), sizes)


def test_groups_of_each_trainer():
    straddling = _batch(["a"] * 4 + ["b"] * 4, [3, 5])
    assert groups(straddling, 4) == groups(straddling, None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    twice_the_same = _batch(["a"] * 8, [4, 4])
    assert groups(twice_the_same, 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    online_dpo = _batch(["a", "b", "a", "b", "c", "d", "c", "d"], [4, 4])
    assert groups(online_dpo, None) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    with pytest.raises(ConfigError, match="one generation for prompt 'a'"):
        groups(_batch(["a", "b"], [2]), None)
    with pytest.raises(DataError, match="4 generations for prompt 'b', 3 for others"):
        groups(_batch(["a"] * 3 + ["b"] * 4, [7]), 4)


def test_messages_are_read_as_text():
    assert text_of([{"role": "user", "content": "Hi"}]) == "Hi"
    parts = [{"type": "text", "text": "look"}, {"type": "image"}]
    assert text_of([{"role": "system", "content": "Be kind"}, {"role": "user", "content": parts}]) == (
        "system: Be kind\nuser: look"
    )


def test_a_reward_model_in_bfloat16_learns_in_float32(tmp_path, tiny_llama_reward):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_reward)
    for train, scope in (("head", "head"), ("head", "head:1"), ("all", "last:1")):
        model = AutoModelForSequenceClassification.from_pretrained(tiny_llama_reward, dtype=torch.bfloat16)
        config = FPOConfig(steering="proximal", scope=scope, reward_model_train=train)
        fpo = begun(FPOReward(model, config, prefer, tokenizer=tokenizer), tmp_path / f"{train}-{scope}")
        before = {name: p.detach().clone() for name, p in fpo.follower.learner.parameters.items()}
        fpo(PROMPTS, RESPONSES)
        assert all(p.dtype == torch.float32 for p in before.values())
        moved = before["head.weight"] != fpo.follower.learner.parameters["head.weight"]
        assert moved.float().mean() > 0.95


def test_a_long_prompt_is_cut_and_never_the_response(tmp_path, tiny_llama_reward, caplog):
    config = FPOConfig(reward_model_max_length=24)
    fpo = begun(FPOReward(str(tiny_llama_reward), config, prefer), tmp_path)
    long = ["why " * 200] * 3
    encoded = fpo.follower.reward_model.encode(long, RESPONSES[:3])["input_ids"]
    texts = fpo.follower.reward_model.tokenizer.batch_decode(encoded, skip_special_tokens=True)
    assert all(text.endswith(response) for text, response in zip(texts, RESPONSES, strict=False))
    assert "the beginning of a prompt is cut off" in caplog.text
    logged = {}
    fpo(long, RESPONSES[:3], log_metric=logged.__setitem__)
    assert logged["fpo/prompts_cut"] == 3


def test_a_length_that_a_checkpoint_says_holds_where_none_was_given(tmp_path, tiny_llama_reward, monkeypatch):
    from dataclasses import replace

    from foresighted.integrations.trl import references

    settled = references.settled

    def as_saved(asked, *rest, **more):
        config, said = settled(asked, *rest, **more)
        return replace(config, reward_model_max_length=24), said

    monkeypatch.setattr(references, "settled", as_saved)
    fpo = begun(FPOReward(str(tiny_llama_reward), FPOConfig(), prefer), tmp_path)
    assert fpo.follower.reward_model.encode(["why " * 200], ["so"])["input_ids"].shape[1] == 24


def test_the_reward_model_can_be_taken_out(tmp_path, tiny_deberta):
    from transformers import AutoModelForSequenceClassification

    fpo = begun(FPOReward(str(tiny_deberta), FPOConfig(reward_model_learning_rate=0.1), prefer), tmp_path)
    fpo(PROMPTS, RESPONSES)
    fpo.save_reward_model(tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(again.classifier.weight, fpo.follower.reward_model.head.weight)
