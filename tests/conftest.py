"""Tiny models of real architectures, the smallest configuration that uses them, and synthetic records."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import socket
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from foresighted.settings import TrainConfig
from foresighted.store import records
from foresighted.store.directory import arm_directory, start_directory
from foresighted.store.rows import append

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for torch, before it is loaded: each worker has one core
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of a small game's time is its compilation
os.environ.setdefault("SSL_CERT_DIR", os.devnull)  # no test speaks TLS; each client would read all certificates
os.fsync = lambda _descriptor: None  # type: ignore[assignment]  # no test cuts the power, and some disks take long
re._MAXCACHE = 4096  # type: ignore[attr-defined]  # transformers compiles more patterns for each model than Python keeps


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first, so that two workers end together: processes, then slow ones, then the rest."""
    rank: dict[Path, int] = {}
    for item in items:
        own = 0 if item.get_closest_marker("processes") else 1 if item.get_closest_marker("slow") else 2
        rank[item.path] = min(own, rank.get(item.path, own))
    items.sort(key=lambda item: rank[item.path])


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of garbage collection, and let trainers ask for none: they do at every turn."""
    gc.collect()
    gc.freeze()
    if (memory := sys.modules.get("accelerate.utils.memory")) is not None:
        memory.clear_device_cache = lambda garbage_collection=False: None  # type: ignore[attr-defined]


CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def elsewhere():
    """A device that is not there, for a `with` block; gives its name."""
    return runpy.run_path(str(Path(__file__).with_name("elsewhere.py")))["elsewhere"]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from foresighted.prompts import load_prompts

    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<unk>"]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([prompt.text for prompt in load_prompts("bundled").train], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", unk_token="<unk>", chat_template=CHAT
    )


def _save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _plain(tokenizer):
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    return plain


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, tokenizer) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    return _save(tmp_path_factory.mktemp("tiny-llama"), LlamaForCausalLM(config), tokenizer)


def _deberta(folder: Path, tokenizer, layers: int) -> Path:
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    torch.manual_seed(1)
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=256, num_labels=1, pad_token_id=0, relative_attention=True,
        initializer_range=0.3, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    return _save(folder, DebertaV2ForSequenceClassification(config), _plain(tokenizer))


@pytest.fixture(scope="session")
def tiny_deberta(tmp_path_factory, tokenizer) -> Path:
    return _deberta(tmp_path_factory.mktemp("tiny-deberta"), tokenizer, 1)


@pytest.fixture(scope="session")
def deberta_of_0_2(tmp_path_factory, tokenizer) -> Path:
    """What `tests/data/0.2` was made with."""
    return _deberta(tmp_path_factory.mktemp("deberta-of-0-2"), tokenizer, 2)


@pytest.fixture(scope="session")
def tiny_llama_reward(tmp_path_factory, tokenizer) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, num_labels=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return _save(tmp_path_factory.mktemp("tiny-llama-reward"), LlamaForSequenceClassification(config), tokenizer)


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["Why is the sky blue?", "What is rain?", "Who invented the telephone?", "Can fish sleep at night?"]
    texts += ["Is coffee a vegetable?", "Where do penguins live?", "How many legs does a spider have?"]
    rows = [{"id": f"p{i}", "kind": "factual", "prompt": text} for i, text in enumerate(texts)]
    rows += [
        {"id": f"h{i}", "kind": "factual", "prompt": f"Held out: {t}", "split": "heldout"}
        for i, t in enumerate(texts[:4])
    ]
    rows[:7] = [{**row, "split": "train"} for row in rows[:7]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tiny(tiny_llama, tiny_deberta, prompt_file) -> TrainConfig:
    """The smallest real run: a Llama policy with LoRA, a DeBERTa-v2 reward model, likelihood labels, the paper's update
    and a reward model without memory."""
    return TrainConfig(
        **{name: value for name, value in TrainConfig.earlier.items() if name != "gamma_unit"},
        prompts=str(prompt_file), policy=str(tiny_llama), reward_model=str(tiny_deberta), labels="likelihood",
        rounds=4, prompts_per_round=2, candidates=3, max_new_tokens=4, min_new_tokens=2, lora_rank=2, lora_alpha=4,
        initial_pairs=3, initial_steps=3, heldout_every=2, heldout_prompts=3, threads=1, device="cpu",
        policy_learning_rate=1e-2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def players(tiny):
    """Policy, reward model and label source of the tiny configuration (do not train them)."""
    import torch

    from foresighted.labels.asking import load_labels
    from foresighted.models.loading import load_policy, load_reward_model

    device = torch.device("cpu")
    policy = load_policy(replace(tiny, max_new_tokens=8), device)
    return policy, load_reward_model(tiny, device), load_labels(tiny, policy, device)


@pytest.fixture(scope="module")  # Playwright's event loop goes on in this thread meanwhile: no other can be run
def chromium() -> Iterator[Any]:
    """Return a headless Chromium of this machine, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


Trajectory = Callable[[int], float]
"""Mean of a quantity after a number of rounds."""


def _write_run(
    directory: Path,
    *,
    seed: int,
    rounds: int,
    utility: Trajectory | None,
    reward: Trajectory,
    every: int = 10,
    prompts: int = 12,
    labels_a_round: int = 4,
    initial: int = 8,
    noise: float = 0.3,
    text: str = "An answer.",
) -> None:
    """Write one run; prompts differ by about 1 unit of utility, answers by `noise`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump({"steering": "rlhf", "seed": seed, "rounds": rounds}))
    random = np.random.default_rng((seed, zlib.crc32(directory.parent.name.encode())))  # of this arm and seed
    of_prompt = np.random.default_rng(9).normal(size=prompts)
    for done in range(0, rounds + 1, every):
        rows = [
            records.HeldoutRow(
                round=done,
                prompt_id=f"p{i}",
                prompt=f"Question {i}?",
                kind="factual",
                text=f"{text} {i} after {done}",
                tokens=10 + i % 3,
                reward=float(reward(done) + of_prompt[i] + noise * random.normal()),
                utility=None if utility is None else float(utility(done) + of_prompt[i] + noise * random.normal()),
                kl=0.1 * done,
                distinct_1=0.9,
                distinct_2=max(0.1, 0.95 - 0.01 * done),
            )
            for i in range(prompts)
        ]
        append(directory / records.HELDOUT, rows)
    for done in range(1, rounds + 1):
        row = records.RoundRow(
            round=done, reward=reward(done), reward_chosen=reward(done) + 0.5, reward_reference=0.0,
            utility_chosen=None if utility is None else utility(done), utility_reference=None, penalty=0.1,
            penalty_chosen=0.05 + 0.01 * done, gamma=0.3, gamma_share=0.1,
            overconfidence=0.2 + 0.001 * done + 0.01 * seed, reward_model_loss=0.6,
            reward_model_accuracy=0.7, policy_loss=2.0, tokens=15.0, empty=0, labels=labels_a_round,
            labels_total=initial + labels_a_round * done,
        )  # fmt: skip
        append(directory / records.ROUNDS, [row])


def _write_comparison(
    out: Path,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    rounds: int = 40,
    skip: Sequence[tuple[str, int]] = (),
    cut: Mapping[tuple[str, int], int] | None = None,
) -> Path:
    """Write a comparison directory: arm -> settings of `_write_run`, without the runs in `skip`, with those in `cut`
    stopped after so many rounds."""
    out.mkdir(parents=True)
    config = {"arms": list(arms), "seeds": list(seeds), "rounds": rounds, "note": "<b>verbatim</b>"}
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (out / "environment.json").write_text(json.dumps({"python": "3.11", "cpu": "<two cores>"}))
    for seed in seeds:
        start = start_directory(out, seed)
        start.mkdir(parents=True)
        pairs = [records.PairRow(f"q{i}", "Question?", "yes", "no", 0.7) for i in range(8)]
        append(start / records.INITIAL_PAIRS, pairs)
        for arm, settings in arms.items():
            if (arm, seed) not in skip:
                done = (cut or {}).get((arm, seed), rounds)
                _write_run(arm_directory(out, arm, seed), seed=seed, **{"rounds": done, **settings})
    return out


FALLING: dict[str, Any] = {"utility": lambda t: 4.0 - 0.075 * t, "reward": lambda t: 0.02 * t}
"""True utility falls from 4 to 1 while proxy reward grows."""
STEADY: dict[str, Any] = {"utility": lambda t: 4.0 + 0.025 * t, "reward": lambda t: 0.015 * t}
"""True utility grows from 4 to 5 with proxy reward."""
FLAT: dict[str, Any] = {"utility": lambda t: 4.0, "reward": lambda t: 0.5}
"""Noise alone."""
BOTH_FALL: dict[str, Any] = {"utility": lambda t: 4.0 - 0.075 * t, "reward": lambda t: 1.0 - 0.05 * t}
"""True utility and proxy reward fall together."""
NO_UTILITY: dict[str, Any] = {"utility": None, "reward": lambda t: 0.02 * t}
"""A labeller without a utility."""


@pytest.fixture(scope="session")
def synthetic() -> SimpleNamespace:
    """Writers of runs and comparisons with known trajectories, by the package's own writer; and trajectories."""
    return SimpleNamespace(
        write_run=_write_run, write_comparison=_write_comparison, FALLING=FALLING, STEADY=STEADY, FLAT=FLAT,
        BOTH_FALL=BOTH_FALL, NO_UTILITY=NO_UTILITY,
    )  # fmt: skip


@pytest.fixture(scope="session")
def told() -> Callable[..., None]:
    """Assert that a message (an exception, or stderr) is one line that holds each of some words, in this order."""

    def told(said: object, *words: str) -> None:
        text, place = str(getattr(said, "value", said)).strip(), 0
        assert "\n" not in text, text
        for word in words:
            found = text.find(word, place)
            assert found >= 0, f"{word!r} is not in {text!r}, or not in this order"
            place = found + len(word)

    return told


_IN_PROCESS = Path(__file__).with_name("in_process.py")
_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["foresighted.cli.main", "foresighted.alignment.run", "foresighted.judging.run", "peft",
                              "foresighted.integrations.trl", "trl.trainer.grpo_trainer",
                              "transformers.models.llama.modeling_llama",
                              "transformers.models.deberta_v2.modeling_deberta_v2"])  # fmt: skip


class Started:
    """A script that runs in a process of its own, and what it has said so far."""

    def __init__(self, process: Any, said: str) -> None:
        self.process, self.pid, self._said = process, process.pid, said

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def wait(self, seconds: float = 300) -> int:
        """Return its exit code (minus the signal that ended it); raises where it does not end."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"still running after {seconds} s: {self.stderr}")
        return int(self.process.exitcode)

    @property
    def stdout(self) -> str:
        """Its standard output."""
        return Path(f"{self._said}.1").read_text()

    @property
    def stderr(self) -> str:
        """Its standard error."""
        return Path(f"{self._said}.2").read_text()


@pytest.fixture(scope="session")
def start_script(tmp_path_factory) -> Callable[..., Started]:
    """Start a script in a process of its own, in which the large libraries are loaded already (ten seconds saved each).

    `start_script(path, *words, names={}, env={})`: arguments, globals and environment that it gets.
    """

    def start(path: Path, *words: object, names: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None):
        said = str(tmp_path_factory.mktemp("said") / "std")
        given = {
            "PATH": str(path),
            "WORDS": [str(w) for w in words],
            "NAMES": names or {},
            "ENV": env or {},
            "SAID": said,
        }
        process = _WARM.Process(target=runpy.run_path, args=(str(_IN_PROCESS), given, "__main__"))
        process.start()
        return Started(process, said)

    return start


@pytest.fixture(scope="session")
def start_foresighted(start_script) -> Callable[..., Started]:
    """Start the command line in a process of its own, as `start_script` does."""
    return partial(start_script, Path(__file__).with_name("command.py"))


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a port of this machine that nobody listens at."""

    def free_port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            return int(free.getsockname()[1])

    return free_port


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Find a script beside the test's own file: what a process of its own runs."""
    return lambda name: Path(request.path).with_name(name)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what became of the generated inputs of `tests/fuzz`, by kind."""
    table: dict[str, dict[str, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "fuzz" and report.when == "call" and value[1]:
                    counts = table.setdefault(value[0], {})
                    counts.update({key: counts.get(key, 0) + number for key, number in value[1].items()})
    if table:
        terminalreporter.section("generated inputs")
        for kind, counts in sorted(table.items()):
            told = ", ".join(f"{key} {number}" for key, number in counts.items())
            terminalreporter.line(f"{kind}: tried {sum(counts.values())}: {told}")
