"""One contract for every layout and architecture: what is read, and that features, rewards and network say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.errors import DataError, ModelError
from foresighted.models.loading import load_reward_model, reward_model
from foresighted.models.reader import Reader

PROMPTS = ["Why is the sky blue?", "Rain?", "Can fish sleep at night, or do they swim all the time?"]
RESPONSES = ["Light scatters.", "Water that falls from clouds, mostly in autumn.", "Yes"]
ARCHITECTURES = ["deberta", "bert", "llama", "encoder"]
LAYOUTS = ["auto", "chat", "text", "pair", "response"]
TALK = [{"role": "user", "content": "Rain?"}], [{"role": "assistant", "content": "Water."}]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory, tokenizer):
    import copy

    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, num_labels=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-bert")
    BertForSequenceClassification(config).save_pretrained(folder)
    own = copy.deepcopy(tokenizer)
    own.chat_template = None
    own.add_special_tokens({"sep_token": "<|end|>", "cls_token": "<|user|>"})
    own.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def source(request, tiny_bert, tiny_deberta, tiny_llama_reward):
    encoder = f"encoder:{tiny_bert}"
    return str(
        {"deberta": tiny_deberta, "bert": tiny_bert, "llama": tiny_llama_reward, "encoder": encoder}[request.param]
    )


def _made(source, layout="auto", **settings):
    model = reward_model(source, layout=layout, **settings)
    if source.startswith("encoder:"):  # its head is zeros
        torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def _close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_through_the_head_are_the_rewards_of_the_network(source, layout):
    model = _made(source, layout)
    inputs = model.encode(PROMPTS, RESPONSES)
    assert len({int(n) for n in inputs["attention_mask"].sum(-1)}) > 1  # some rows are padded
    assert bool((inputs["attention_mask"][:, 0] == 1).all())  # on the right
    with torch.no_grad():
        together = model.network(**inputs)
    _close(model.rewards(model.features(PROMPTS, RESPONSES)), together)
    _close(model.rewards(model.features(PROMPTS, RESPONSES, chunk=2)), together)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = model.encode([prompt], [response])
        tokens = alone["input_ids"].shape[1]
        assert torch.equal(alone["input_ids"][0], inputs["input_ids"][i, :tokens])
        with torch.no_grad():
            _close(model.network(**alone)[0], together[i])
        _close(model.rewards(model.features([prompt], [response]))[0], together[i])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_long_prompt_loses_its_beginning_and_the_row_reads_as_it_does_alone(source, layout, caplog):
    model = _made(source, layout, max_length=40)
    prompts = ["why " * 60 + "so?", "Rain?", "why " * 60 + "not?"]
    inputs = model.encode(prompts, RESPONSES)
    assert inputs["input_ids"].shape[1] <= 40
    words = model.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
    for i, (prompt, response) in enumerate(zip(prompts, RESPONSES, strict=True)):
        assert response in words[i]
        if layout != "response":
            assert prompt[-3:] in words[i]
        alone = model.encode([prompt], [response])["input_ids"][0]
        assert torch.equal(alone, inputs["input_ids"][i, : len(alone)])
    assert ("the beginning of a prompt is cut off" in caplog.text) == (layout != "response")
    _close(model.rewards(model.features(prompts, RESPONSES)), model.network(**inputs).detach())


def test_the_loop_and_a_trainer_read_the_same_pair_alike(tiny, source):
    for theirs, ours in (("auto", "pair"), ("response", "response")):
        loop = load_reward_model(replace(tiny, reward_model=source, reward_model_input=ours), CPU)
        trainer = reward_model(source, layout=theirs, max_length=1024, feature_scale=tiny.feature_scale)
        for model in (loop, trainer):
            torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
        said, answered = PROMPTS, RESPONSES
        if loop.reader.layout == "chat":  # a trainer hands over conversations
            said = [[{"role": "user", "content": text}] for text in PROMPTS]
            answered = [[{"role": "assistant", "content": text}] for text in RESPONSES]
            assert torch.equal(loop.features(PROMPTS, RESPONSES), loop.features(said, answered))
        assert torch.equal(loop.features(PROMPTS, RESPONSES), trainer.features(said, answered))


def test_a_decoder_that_pads_with_its_end_token_says_what_the_classifier_says(tiny_llama_reward):
    """The classifier takes the last token that is no padding, which is not the end token that closes a text."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_reward)
    tokenizer.pad_token = tokenizer.eos_token
    body = AutoModelForSequenceClassification.from_pretrained(tiny_llama_reward, pad_token_id=tokenizer.eos_token_id)
    model = reward_model(body, tokenizer, layout="text", append_eos=True)
    inputs = model.encode(PROMPTS, RESPONSES)
    assert bool((inputs["input_ids"][:, -1] == tokenizer.eos_token_id).all())
    _close(model.rewards(model.features(PROMPTS, RESPONSES)), body(**inputs).logits[:, 0].detach())


def test_layouts_of_a_decoder(tokenizer):
    def read(layout, prompt="Rain?", response="Water.", **settings):
        return tokenizer.decode(
            Reader(tokenizer, layout=layout, longest=64, **settings)([prompt], [response])["input_ids"][0]
        )

    chat = "<|user|>Rain?<|end|><|assistant|>Water.<|end|>"
    talk = [{"role": "user", "content": "Rain?"}], [{"role": "assistant", "content": "Water."}]
    assert read("auto") == read("text") == "Rain?Water."
    assert read("text", append_eos=True) == "Rain?Water.<|end|>"
    assert read("chat") == read("auto", *talk) == read("pair", *talk) == read("text", talk[0], "Water.") == chat
    assert read("response") == read("response", *talk) == "Water."


@pytest.mark.parametrize("layout", ["chat", "text", "pair", "response"])
def test_a_response_is_never_cut(tokenizer, layout, told):
    reader = Reader(tokenizer, layout=layout, longest=20)
    with pytest.raises(DataError) as error:
        reader(["Rain?"], ["water " * 40])
    told(error, "a response takes", "reads 20", "max_new_tokens", "reward_model_max_length")
    assert Reader(tokenizer, layout="beginning", longest=20)([""], ["water " * 40])["input_ids"].shape == (1, 20)


@pytest.mark.parametrize("layout", ["chat", "text", "pair"])
def test_every_prompt_that_fits_by_being_cut_leaves_the_whole_response(tokenizer, layout):
    """One token less at a time, down to where the response would be next."""
    prompt, response = "Why is it that rain falls on us?", " Because clouds are heavy."
    whole = Reader(tokenizer, layout=layout, longest=999)([prompt], [response])["input_ids"][0].tolist()
    for longest in range(len(whole) - 1, 1, -1):
        reader = Reader(tokenizer, layout=layout, longest=longest)
        try:
            ids = reader([prompt], [response])["input_ids"][0].tolist()
        except DataError:
            break
        assert (len(ids), reader.cut) == (longest, 1)
        assert ids == whole[-longest:]
    assert response.strip() in tokenizer.decode(ids)
    assert "falls on us" not in tokenizer.decode(ids)


def test_cut_rows_are_counted_and_said_at_1_and_10(tokenizer, caplog):
    reader = Reader(tokenizer, layout="text", longest=20)
    for _ in range(12):
        reader(["why " * 40, "Rain?"], ["Yes", "Yes"])
    assert reader.cut == 12
    assert [record.args[0] for record in caplog.records] == [1, 10]


def _with_begin_token(tokenizer, *, chat):
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    core.add_special_tokens(["<s>"])
    begin = ("<s>", core.token_to_id("<s>"))
    core.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[begin])
    template = {"chat_template": "{{ bos_token }}" + tokenizer.chat_template} if chat else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", bos_token="<s>", **template
    )


def test_a_begin_token_stands_once_at_the_beginning_and_stays_when_the_prompt_is_cut(tokenizer):
    own = _with_begin_token(tokenizer, chat=True)
    for longest in (99, 16):
        row = Reader(own, layout="chat", longest=longest)(["Why, why, why is rain?"], ["Water."])["input_ids"][0]
        assert row.tolist().count(own.bos_token_id) == 1
        assert int(row[0]) == own.bos_token_id
        assert own.decode(row).endswith("<|assistant|>Water.<|end|>")


def test_without_a_template_the_loop_reads_what_a_trainer_reads(tokenizer):
    own = _with_begin_token(tokenizer, chat=False)
    loop, trainer = (Reader(own, layout=layout, longest=64) for layout in ("chat", "auto"))
    texts = [own.decode(read(["Rain?"], ["Water."])["input_ids"][0]) for read in (loop, trainer)]
    assert texts == ["Rain?Water."] * 2
    assert own.decode(trainer(TALK[:1], TALK[1:])["input_ids"][0]) == "Rain?Water."


@pytest.mark.parametrize("layout", ["text", "response"])
def test_an_empty_row_is_one_token_alone_and_in_a_batch(tokenizer, layout):
    reader = Reader(tokenizer, layout=layout, longest=64)
    alone, batch = reader([""], [""]), reader(["", ""], ["", "Water."])
    assert alone["input_ids"].tolist() == [[tokenizer.eos_token_id]]
    assert batch["input_ids"][0, 0] == tokenizer.eos_token_id
    assert batch["attention_mask"][0].tolist()[:2] == [1, 0]


def test_half_a_surrogate_pair_is_no_text(tokenizer, told):
    with pytest.raises(DataError) as error:
        Reader(tokenizer, layout="text", longest=64)(["Rain? \ud83d"], ["Water."])
    told(error, "half of a surrogate pair", "Rain?")


@pytest.mark.parametrize("train", ["head", "lora", "all"])
def test_what_is_trained(source, train):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = _made(source, train=train)
    assert source.startswith("encoder:") or torch.equal(before, torch.get_rng_state())  # draws of its own
    names = set(model.trainable())
    assert {"head.weight", "head.bias"} & names
    assert (train == "head") == all(name.startswith("head.") for name in names)
    assert (train == "lora") == any(".lora_" in name for name in names)
    assert model.head_only == (train == "head")


def test_a_model_that_is_given_is_read_like_its_folder(tiny_deberta):
    from transformers import AutoModelForSequenceClassification

    body = AutoModelForSequenceClassification.from_pretrained(tiny_deberta)
    given, named = reward_model(body), reward_model(str(tiny_deberta))  # its tokenizer lies where it is from
    assert torch.equal(given.features(PROMPTS, RESPONSES), named.features(PROMPTS, RESPONSES))
    body.name_or_path = body.config._name_or_path = ""
    with pytest.raises(ModelError, match=r"tokenizer: .* does not say where it is from"):
        reward_model(body)


@pytest.mark.slow
def test_a_run_records_how_many_prompts_were_cut(tiny, tmp_path):
    from foresighted.alignment.run import train
    from foresighted.store.records import RoundRow
    from foresighted.store.rows import read

    for longest, cut in ((None, 0), (14, 8)):  # two prompts of three candidates and a reference each
        own = replace(tiny, rounds=1, max_new_tokens=6, heldout_prompts=1, reward_model_max_length=longest)
        train(own, tmp_path / str(longest))
        (row,) = read(tmp_path / str(longest) / "rounds.jsonl", RoundRow)
        assert row.prompts_cut == cut


def test_an_empty_response_is_a_segment_beside_a_row_that_is_cut_too(tokenizer):
    own = _with_begin_token(tokenizer, chat=False)
    reader = Reader(own, layout="pair", longest=20)
    alone = reader(["Rain?"], [""])["input_ids"][0].tolist()
    beside = reader(["Rain?", "why " * 60], ["", "Yes"])["input_ids"][0].tolist()
    assert alone.count(own.bos_token_id) == 2
    assert beside[: len(alone)] == alone


def test_what_is_read_by_itself_is_read_once():
    model, prompts = reward_model("embedded:relevance"), ["What is rain?", "Can fish sleep at night, do you think?"]
    rows = [(p, r) for p in prompts for r in ("Water.", "Yes, some of them do.", "Water.")]
    every = model.features(*zip(*rows, strict=True))
    one_by_one = torch.cat([model.features([p], [r]) for p, r in rows])
    torch.testing.assert_close(every, one_by_one)
    torch.testing.assert_close(every, model.features_with_gradient(*map(list, zip(*rows, strict=True))).detach())
    read: list[int] = []
    model.body.register_forward_hook(
        lambda _module, _args, kwargs, _said: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    model.features(*zip(*rows, strict=True))
    assert read == [2, 2]  # responses, prompts


@pytest.mark.parametrize("name", ["embedded", "bert", "llama"])
def test_rows_of_one_length_are_read_together(name, tiny_bert, tiny_llama_reward, monkeypatch):
    source = str({"bert": tiny_bert, "llama": tiny_llama_reward}.get(name, name))
    model = reward_model(source, layout="response")
    responses = ["Yes", "It rains. " * 9, "No", "Fish sleep. " * 8, "Why?", "It rains, and fish sleep. " * 5]
    prompts = ["Rain?"] * len(responses)
    lengths = model.encode(prompts, responses)["attention_mask"].sum(1).tolist()
    one_by_one = torch.cat([model.features([p], [r]) for p, r in zip(prompts, responses, strict=True)])
    read: list[tuple[int, int]] = []
    model.body.register_forward_hook(
        lambda _module, _args, kwargs, _said: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr("foresighted.models.reward_model.TOKENS", 3 * max(lengths))
    torch.testing.assert_close(model.features(prompts, responses), one_by_one)
    assert sum(rows for rows, _ in read) == len(responses)
    assert all(rows * width <= 3 * max(lengths) for rows, width in read)
    assert [width for _, width in read] == sorted((width for _, width in read), reverse=True)
    assert read[-1][1] < max(lengths)  # the short ones are not padded to the longest
    read.clear()
    model.features(prompts, responses, chunk=1)
    assert [width for _, width in read] == sorted(lengths, reverse=True)
