"""Settings of `foresighted evaluate`: one flat frozen dataclass, validated when it is made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from foresighted.errors import ConfigError, nearest
from foresighted.inputs import shown
from foresighted.judging.key import WRONG_VARIABLE, is_variable, looks_like_key, without_keys
from foresighted.judging.rows import TIE
from foresighted.settings import Settings, setting

_NAME = re.compile(r"(?P<name>[\w.+:-]+)(?:@(?P<seed>[0-9]{1,9}))?")


class Named(NamedTuple):
    """One entry of `--policies`: NAME=MODEL, or NAME@SEED=MODEL for one training seed of several."""

    name: str
    seed: int | None
    source: str


DIGESTS = "sha256"
"""Key of `OUT/config.yaml` that is no setting: digests of the user's own files that verdicts depend on."""


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """One evaluation: whose answers, to which prompts, judged by whom."""

    beside = (DIGESTS,)

    policies: tuple[str, ...] = setting(
        (),
        "answers",
        "NAME=MODEL, several with commas, the first being the baseline. MODEL: 'embedded', a folder or hub id, a run"
        " directory of foresighted train (its newest checkpoint), an arm's directory of foresighted compare (all its"
        " seeds), a PEFT adapter folder, or a file of answers (JSON lines, JSON, CSV, Parquet). NAME@SEED=MODEL"
        " gives one training seed",
        low=0,
    )
    prompts: str | None = setting(
        None,
        "answers",
        "'bundled', 'truthfulqa', a file of prompts as train reads it, or hub:DATASET[@CONFIGURATION]:SPLIT:COLUMN"
        " (default: bundled; where every policy is a file of answers, the prompts that the files hold)",
    )
    split: Literal["auto", "heldout", "train", "all"] = setting(
        "auto",
        "answers",
        "auto: the held-out prompts of the bundled set and of a file that a policy was trained on, else all",
    )
    prompt_limit: int | None = setting(None, "answers", "answer only the first K of them", low=1)
    max_new_tokens: int = setting(64, "answers", "longest answer in tokens (the paper: 64)", low=1)
    temperature: float = setting(
        0.0, "answers", "0: greedy, as in the paper; above: sampled, with noise of --seed", low=0
    )
    system_prompt: str | None = setting(
        None, "answers", "system message (default: a run's own, else what the chat template puts there)"
    )
    batch: int = setting(8, "answers", "prompts answered at a time", low=1)
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "answers", "precision of loaded weights")
    device: str = setting("auto", "answers", "'auto', 'cpu', 'cuda', 'cuda:1', 'mps'")
    threads: int | None = setting(None, "answers", "CPU threads of torch (default: torch's own)", low=1, high=1024)
    seed: int = setting(0, "answers", "seed of sampled answers and of the bootstrap", low=0)

    judge: str | None = setting(
        None,
        "judge",
        "openai:MODEL (an endpoint), reward:MODEL, likelihood or likelihood:MODEL (mean log-likelihood of the answer),"
        " or FILE.py:NAME, a function(prompt, first, second) -> preference for first in [0, 1] or a types.Labeller"
        " (default: nobody; answers are only written and measured)",
    )
    base_url: str | None = setting(
        None,
        "judge",
        "of an OpenAI-compatible endpoint, for example http://localhost:8000/v1 (default: OpenAI's own)",
        hidden=True,
    )
    api_key_env: str = setting(
        "OPENAI_API_KEY", "judge", "environment variable that holds the key; it is not kept", hidden=True
    )
    rubric: str = setting("paper", "judge", "'paper' (its two criteria and three categories), or a .yaml or text file")
    categories: Literal["kind", "judge"] = setting(
        "kind", "judge", "category of a prompt: from its kind, or asked of the judge (one request a prompt)"
    )
    structured: Literal["auto", "schema", "text"] = setting(
        "auto",
        "judge",
        "ask for output by JSON schema; auto falls back to JSON in text where the endpoint refuses that, and says so",
    )
    concurrency: int = setting(8, "judge", "requests at a time", low=1, high=256)
    retries: int = setting(4, "judge", "tries after the first for each request, with back-off", low=0, high=100)
    timeout: float = setting(
        60.0, "judge", "seconds that one try may take, from its first byte to its last", above=0, high=86400
    )
    max_reply_tokens: int = setting(300, "judge", "longest reply of the judge, its thoughts included", low=16)
    cache: str | None = setting(
        None,
        "judge",
        "file of replies that were paid for, shared by evaluations; 'off' for none (default: OUT/judge.sqlite)",
    )
    reward_model_max_length: int | None = setting(
        None,
        "judge",
        "most tokens that reward:MODEL reads, of which the prompt loses its beginning (default: what it takes)",
        low=2,
    )
    tie_margin: float = setting(
        0.0, "judge", "of judges that give a preference p: a tie if |p - 0.5| is at most this", low=0, below=0.5
    )

    capabilities: tuple[str, ...] = setting(
        (), "capabilities", "tasks of lm-evaluation-harness, for example mmlu,arc_challenge"
    )
    capability_limit: int | None = setting(None, "capabilities", "items of each task (default: all)", low=1)
    capability_tasks: str | None = setting(None, "capabilities", "folder of task files of your own")

    def _rules(self) -> Iterable[tuple[bool, str]]:
        judge = self.judge or "likelihood"
        local = judge.startswith("reward:") or judge.partition(":")[0] == "likelihood" or "judge" in self.own_files
        yield bool(self.policies), "policies: got none; give NAME=MODEL, for example --policies base=embedded"
        told = "" if self.base_url is None else _address_fault(self.base_url)
        yield not told, f"base_url: {told}"
        yield is_variable(self.api_key_env), WRONG_VARIABLE
        yield (
            local or self.uses_endpoint,
            f"judge: got {without_keys(shown(judge))}"
            f"{nearest(judge[:80], ['openai:MODEL', 'reward:MODEL', 'likelihood'])}; expected"
            " openai:MODEL, reward:MODEL, likelihood, likelihood:MODEL or FILE.py:NAME",
        )
        yield (
            self.base_url is None or self.uses_endpoint,
            f"base_url: the judge {without_keys(repr(self.judge))} is no endpoint; use --judge openai:MODEL",
        )
        yield (
            self.categories == "kind" or self.uses_endpoint,
            "categories: only an endpoint can be asked for them; use --judge openai:MODEL, or --categories kind",
        )
        try:
            self.named()
        except ConfigError as error:
            yield False, str(error)

    @property
    def uses_endpoint(self) -> bool:
        """Whether the judge is an OpenAI-compatible endpoint."""
        return self.judge is not None and self.judge.startswith("openai:")

    @property
    def own_files(self) -> dict[str, Path]:
        """Files of the user's own that verdicts depend on: the `judge` FILE.py:NAME, the `rubric`."""
        path = (self.judge or "").rpartition(":")[0]
        own = path.endswith(".py") and not path.startswith(("openai:", "reward:", "likelihood:"))
        found = {"judge": Path(path)} if own else {}
        return found if self.rubric == "paper" else found | {"rubric": Path(expanduser(self.rubric))}

    def named(self) -> tuple[Named, ...]:
        """Return the policies as names and sources.

        Raises:
            ConfigError: an entry without a name, or a name (and seed) given twice.
        """
        found = []
        for text in self.policies:
            left, equals, source = text.partition("=")
            match = _NAME.fullmatch(left.strip())
            if not equals or not source or match is None or match["name"].lower() == TIE:
                raise ConfigError(
                    f"policies: got {text!r}; expected NAME=MODEL or NAME@SEED=MODEL, the name of letters, digits and"
                    " ._+:- and not 'tie'"
                )
            found.append(Named(match["name"], int(match["seed"]) if match["seed"] else None, source))
        places = [(one.name, one.seed) for one in found]
        twice = [one for one in found if places.count((one.name, one.seed)) > 1]
        twice += [one for one in found if one.seed is None and sum(one.name == other.name for other in found) > 1]
        if twice:
            raise ConfigError(
                f"policies: {twice[0].name} stands twice; give each policy a name of its own, or NAME@SEED=MODEL for"
                " training seeds of one"
            )
        return tuple(found)


MAY_CHANGE_ON_RESUME = (
    "policies", "max_reply_tokens", "concurrency", "retries", "timeout", "cache", "batch", "threads", "device",
    "api_key_env", "capabilities", "capability_limit", "capability_tasks",
)  # fmt: skip
"""Settings that a resumed evaluation may change: none touches an answer or a verdict that is there already. Policies
may only be added."""


def _address_fault(address: str) -> str:
    """Return what is wrong with the address of an endpoint, or nothing; one that may hold a key is not shown."""
    if any(mark in address for mark in "@?#"):
        return "holds a user name, password, query or fragment; a key belongs in the environment (--api-key-env)"
    got = "what was given" if looks_like_key(address) else f"got {shown(address)}"
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # of a bracket or a port
        fits = False
    plain = all("!" <= character <= "~" for character in address)
    return "" if fits and plain else f"{got}; expected http://HOST:PORT/v1 or https://..., in ASCII"


def cache_file(config: EvaluateConfig, out: Path) -> Path | None:
    """Return where paid replies are kept, or None."""
    if config.cache is None:
        return out / "judge.sqlite"
    return None if config.cache == "off" else Path(expanduser(config.cache))
