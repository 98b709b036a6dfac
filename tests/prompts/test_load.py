from __future__ import annotations

import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from foresighted.errors import DataError
from foresighted.prompts import load_prompts, order, read_prompts
from foresighted.prompts.load import held_out


def test_the_bundled_set():
    train, heldout = load_prompts("bundled")
    everything = train + heldout
    assert len(everything) >= 400
    assert len({p.text.casefold() for p in everything}) == len(everything)
    assert {p.kind for p in train} == {p.kind for p in heldout} == {"factual", "deceptive", "sycophancy"}
    assert min(sum(p.kind == kind for p in heldout) for kind in ("factual", "deceptive", "sycophancy")) >= 15
    assert 0.1 < len(heldout) / len(everything) < 0.3
    assert all(held_out(p.id) for p in heldout)
    assert not any(held_out(p.id) for p in train)


def test_adding_prompts_never_moves_one_across(tmp_path):
    path = tmp_path / "p.txt"
    texts = [f"What is {n} plus {n}?" for n in range(40)]
    path.write_text("\n".join(texts[:20]))
    before = {p.id for p in load_prompts(str(path)).heldout}
    path.write_text("\n".join(["A new first one?", *texts]))
    assert before <= {p.id for p in load_prompts(str(path)).heldout}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no prompt"),
        ("\n\n", "has no prompt"),
        ('{"prompt": "a"}\n{"prompt": }\n', "line 2: not a JSON object"),
        ('{"prompt": "a"}\n["a"]\n', "line 2: not a JSON object"),
        ('{"prompt": "a"}\n{"prompt": " "}\n', 'line 2: no text under "prompt"'),
        ('{"prompt": "a", "id": "1"}\n\n{"prompt": "b", "id": 1}\n', "line 3: id '1' stands twice"),
        ('{"prompt": "a", "split": "test"}\n', "line 1: split 'test'"),
        ('{"prompt": "a", "split": "train"}\n', "leaves no heldout prompt"),
        ('{"prompt": "\\ud800 a"}\n', "line 1: prompt holds half of a surrogate pair"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', r"p.jsonl, line 1: messages has no turn of a user"),
        ('{"prompt": "q"}\n{"prompt": [{"role": "system", "content": "a"}]}\n', "line 2: prompt has no turn of a user"),
        (
            '{"conversations": [{"from": "gpt", "value": "a"}]}\n',
            "has no turn of a user",
        ),
        ('{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": " "}]}\n', "line 1: no text"),
    ],
)
def test_bad_files(tmp_path, text, words):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load_prompts(str(path))


def test_a_file_packed_twice_is_called_so(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.compress(b'{"prompt": "a"}\n')))
    with pytest.raises(DataError, match="gzip inside gzip"):
        load_prompts(str(path))


def test_an_answer_is_one_however_its_role_is_written(tmp_path):
    path = tmp_path / "p.jsonl"
    turns = [{"role": "User", "content": "why?"}, {"role": "Assistant", "content": "so"}]
    path.write_text(json.dumps({"messages": turns}))
    assert read_prompts(str(path))[0][0].text == "why?"


def test_lines_end_in_newlines_alone_and_other_names_of_a_prompt_are_read(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes('\ufeff{"prompt": "one\u2028line"}\r\n{"Question": "two"}\n{"instruction": "three\x85"}'.encode())
    assert [prompt.text for prompt, _ in read_prompts(str(path))] == ["one\u2028line", "two", "three\x85"]
    (tmp_path / "p.txt").write_bytes("\ufeffone\u2028line\r\n\ntwo\x0b\n".encode())
    assert [prompt.text for prompt, _ in read_prompts(str(tmp_path / "p.txt"))] == ["one\u2028line", "two\x0b"]


def test_unreadable_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_prompts(str(tmp_path / "none.txt"))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-16 text; expected"):
        load_prompts(str(tmp_path / "b.txt"))
    (tmp_path / "b.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="line 1: not UTF-8 text; save the file as UTF-8"):
        load_prompts(str(tmp_path / "b.txt"))
    with pytest.raises(DataError, match="expected hub:DATASET:SPLIT:COLUMN"):
        load_prompts("hub:only-a-name")


def test_sets_of_the_hub_by_name_and_configuration(monkeypatch):
    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        return {"question": [f"Is {i} a number?" for i in range(9)]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    prompts = read_prompts("truthfulqa")
    assert [prompt.id for prompt, _ in prompts] == [str(i) for i in range(9)]
    assert prompts[0] == (("0", "Is 0 a number?", "unspecified"), None)
    read_prompts("hub:some/data:train:question")
    assert asked == [("truthfulqa/truthful_qa", "generation", "validation"), ("some/data", None, "train")]


def test_limit_keeps_the_first(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [{"id": str(i), "prompt": f"q{i}", "split": "heldout" if i == 0 else "train"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.id for p in load_prompts(str(path), limit=2).train] == ["1", "2"]


def test_order_is_a_permutation_of_its_own_for_every_seed_and_epoch():
    orders = [tuple(order(30, seed=s, epoch=e)) for s in range(3) for e in range(3)]
    assert all(sorted(o) == list(range(30)) for o in orders)
    assert len(set(orders)) == 9
    assert order(30, seed=1, epoch=2) == order(30, seed=1, epoch=2)
