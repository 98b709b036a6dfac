"""Hook of MkDocs: fills the pages' `{{ markers }}` from the code, so that reference tables cannot drift from it.

Pages are Markdown by hand; a marker stands alone on its line. What a marker says comes from the same objects that the
program uses: settings and presets from `foresighted.settings`, commands from the parser, columns from the record
classes. A marker without a maker, or a column without a meaning, fails the build.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mkdocs.exceptions import PluginError

import foresighted
from foresighted.cli.main import parser
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.owner import OwnerConfig
from foresighted.integrations.people.settings import LabelConfig
from foresighted.integrations.ray.config import Placement
from foresighted.integrations.trl.config import FPOConfig
from foresighted.settings import (
    MAY_CHANGE_ON_RESUME,
    OF_AN_ARM,
    PRESETS,
    CompareConfig,
    RehearseConfig,
    TrainConfig,
    choices,
    settings,
)
from foresighted.settings.rehearse import usual

MARKER = re.compile(r"^\{\{ (\w+)(?: ([\w./ -]+))? \}\}$", re.MULTILINE)
LONG_CODE = 36  # code in a cell may break after : and / from this length on
SOURCE = Path(foresighted.__file__).parent
HERE = Path(__file__).parent

PLAIN_COLUMNS = {
    "round": "Number of the round, from 1.",
    "prompt_id": "Id of the prompt: its own, or the first 12 hex digits of the text's SHA-256.",
    "prompt": "Text of the prompt.",
    "kind": "Kind of the prompt, as its file says; `unspecified` otherwise.",
    "candidate": "Number of the candidate among the prompt's N, from 0.",
    "text": "The response, special tokens removed.",
    "tokens": "Length of the response in tokens, an end-of-sequence token included.",
    "reward": "Proxy reward r(x, y).",
    "utility": "True utility U(x, y), or null where the labeller has none.",
    "penalty": "Steering penalty, in units of reward.",
    "chosen": "Whether this candidate won its prompt.",
    "distinct_1": "Share of distinct words in the answer.",
    "first": "The response that the label is the preference of.",
    "second": "The other response.",
    "label": "Preference of `first` over `second`, in [0, 1].",
    "labels": "Preferences read in this round.",
    "RoundRow.tokens": "Mean length of the candidates, in tokens.",
    "RoundRow.reward": "Mean proxy reward of all candidates, before this round's update of the reward model.",
    "RoundRow.reward_chosen": "The same, winners only.",
    "RoundRow.reward_reference": "The same, reference responses.",
    "RoundRow.utility_chosen": "Mean true utility of the winners, null where none is known.",
    "RoundRow.utility_reference": "Mean true utility of each prompt's first reference, null where none is known.",
    "RoundRow.penalty": "Mean penalty of all candidates.",
    "RoundRow.penalty_chosen": "Mean penalty of the winners.",
    "RoundRow.reward_model_loss": "Bradley-Terry loss on the round's labels, before the first optimiser step.",
    "RoundRow.policy_loss": (
        "Before the first step. Best of N: mean negative log-likelihood of the winners, nats a token. Policy gradient:"
        " −A log π(y | x), mean over candidates, over their mean length; null where no step was taken."
    ),
    "HeldoutRow.round": "Rounds done before the answer was written; 0 is the initial policy.",
    "HeldoutRow.reward": "Proxy reward of the answer, by the reward model of that moment.",
    "ReferenceRow.round": "The round in which this reference is used, from 1.",
}
"""Meaning of the columns whose field has no docstring of its own; `Class.column` goes before `column`."""

PROTOCOL: Sequence[tuple[str, str, str]] = (
    (
        "500 prompts of UltraFeedback",
        "prompts",
        "the published code takes the first 500 rows, in file order; here one"
        " row in five is held out, and the seed sets the order",
    ),
    ("500 prompts of UltraFeedback", "prompt_limit", ""),
    ("one pass, 4 prompts to an update", "rounds", "125 rounds of 4 prompts are 500"),
    ("one pass, 4 prompts to an update", "prompts_per_round", ""),
    ("4 accumulation steps", "accumulation_steps", "one prompt a micro-batch, the same gradient"),
    ("policy Llama-3.2-1B-Instruct", "policy", ""),
    ("policy in NF4", "quantization", "without the second (double) quantisation of the published code"),
    ("LoRA r = 16", "lora_rank", ""),
    ("LoRA alpha = 32", "lora_alpha", ""),
    ("LoRA dropout = .05", "lora_dropout", ""),
    ("LoRA on q, k, v, o", "lora_targets", ""),
    ("policy learning rate 2e-5", "policy_learning_rate", ""),
    (
        "8-bit paged AdamW",
        "optimizer",
        "of the policy; the published code uses it for the reward model too, here that is plain AdamW",
    ),
    ("best of N", "policy_update", ""),
    ("one update of the policy", "policy_steps", ""),
    ("no clipping of gradients (code)", "max_grad_norm", "give a very large number to switch it off"),
    ("N = 8 candidates", "candidates", ""),
    ("one reference of the frozen policy", "references", ""),
    ("32 new tokens", "max_new_tokens", ""),
    ("at least 5 tokens", "min_new_tokens", ""),
    ("temperature .8", "temperature", ""),
    ("top-p .9", "top_p", ""),
    ("NF4 computes in bfloat16 (code)", "dtype", "`--dtype bfloat16` gives the published precision"),
    ("reward model DeBERTa-v3-base", "reward_model", ""),
    ("classification head only", "reward_model_train", ""),
    ("reward model reads the response alone", "reward_model_input", "a fault that the preset keeps"),
    ("reward model learning rate 5e-5", "reward_model_learning_rate", ""),
    ("one update of the reward model", "reward_model_steps", ""),
    ("on the round's labels alone", "reward_model_buffer", ""),
    ("no L2 term", "reward_model_l2", ""),
    ("winner against reference", "reward_model_pairs", ""),
    ("reward model used as downloaded", "initial_pairs", ""),
    ("soft label σ(U(y) − U(y′))", "sampled_labels", ""),
    (
        "oracle: frozen policy's mean log-likelihood + 5, clipped to [−15, 5]",
        "labels",
        "response tokens only; frozen base in the policy's own precision (published: 8 bit)",
    ),
    ("γ = 10", "gamma", ""),
    ("γ = 10", "gamma_unit", ""),
    ("no KL term in the score (code)", "kl_coefficient", ""),
    ("baseline, practical and relaxed", "steering", "give the others with `--steering`, or `--arms` in `compare`"),
    ("seed 42 (code)", "seed", "seeds do not carry over: noise is made another way"),
)
"""Number in the paper (or in its code, where it says so), the setting here, and a remark."""


def on_page_markdown(markdown: str, page: Any, **_kwargs: Any) -> str:
    """Replace every marker of a page."""

    def made(found: re.Match[str]) -> str:
        name, argument = found.group(1), found.group(2)
        if name not in MAKERS:
            raise PluginError(f"{page.file.src_path}: unknown marker {name!r}; known are {', '.join(MAKERS)}")
        return MAKERS[name](argument or "")

    return MARKER.sub(made, markdown)


def cell(text: object) -> str:
    """Return text as a table cell: nothing in it is Markdown or HTML, but `code` in backticks stays code."""
    parts = re.split(r"(`[^`]+`)", str(text))
    return "".join(_code(part) if part.startswith("`") else _escaped(part) for part in parts)


def _code(part: str) -> str:
    if len(part) <= LONG_CODE:
        return part.replace("|", "\\|")
    escaped = html.escape(part.strip("`"), quote=False).replace("|", "&#124;")
    return f"<code>{re.sub('([:/])', lambda found: found[0] + '<wbr>', escaped)}</code>"


def _escaped(text: str) -> str:
    text = html.escape(text, quote=False).replace("|", "&#124;")
    return re.sub(r"([*_\[\]])", r"\\\1", text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(cell(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def shown(value: Any) -> str:
    """Return a setting's value as it is written on a command line."""
    if value is None:
        return "none"
    if value == "":
        return "(empty)"
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def type_text(hint: Any) -> str:
    """Return a type in words; choices are listed."""
    if get_args(hint) and all(isinstance(choice, str) for choice in get_args(hint)):
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"{type_text(get_args(hint)[0])} list"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", type(None): "null"}
    return names.get(hint) or " or ".join(type_text(part) for part in get_args(hint))


def settings_tables(which: str) -> str:
    """Every setting of the command line's configurations, or of those inside TRL, one table a group."""
    parts = []
    kinds: dict[str, tuple[type, ...]] = {
        "trl": (FPOConfig,),
        "people": (LabelConfig,),
        "serve": (ServeConfig, OwnerConfig),
        "ray": (Placement,),
    }
    for kind in kinds.get(which, (TrainConfig, CompareConfig, RehearseConfig)):
        hints = get_type_hints(kind)
        groups: dict[str, list[tuple[str, str, str, str]]] = {}
        for name, item in settings(kind).items():
            kind_text = ", ".join(f"`{one}`" for one in choices(kind, name)) or type_text(hints[name])
            row = (f"`{name}`", kind_text, shown(item.default), item.metadata["help"])
            groups.setdefault(item.metadata["group"], []).append(row)
        for group, rows in groups.items():
            where = {CompareConfig: " (`compare` only)", RehearseConfig: " (`rehearse` only)"}.get(kind, "")
            title = f"### {group.capitalize()}{where}"
            parts.append(f"{title}\n\n" + table(("setting", "type", "default", "meaning"), rows))
    return "\n".join(parts)


def preset_table(name: str) -> str:
    """What a preset changes, or a command that has other defaults than `train`."""
    values = usual({}) if name == "rehearse" else PRESETS[name]
    default = {key: item.default for kind in (CompareConfig, TrainConfig) for key, item in settings(kind).items()}
    changes = {key: value for key, value in values.items() if value != default[key]}
    rows = [(f"`{key}`", shown(value), shown(default[key])) for key, value in changes.items()]
    return table(("setting", f"`{name}`", "default"), rows)


def protocol_table(_argument: str) -> str:
    """Each number of the published protocol, the setting, its value in the preset."""
    known = settings(TrainConfig)
    missing = [name for name in PRESETS["paper"] if name not in {setting for _, setting, _ in PROTOCOL}]
    if missing:
        raise PluginError(f"configuration.md: preset paper sets {', '.join(missing)}; add a row to PROTOCOL")
    rows = [
        (published, f"`{name}`", shown(PRESETS["paper"].get(name, known[name].default)), remark)
        for published, name, remark in PROTOCOL
    ]
    return table(("published", "setting", "value in `paper`", "remark"), rows)


def names_list(which: str) -> str:
    """A list of settings that code keeps as a tuple."""
    names = {"resume": MAY_CHANGE_ON_RESUME, "arm": OF_AN_ARM}[which]
    return ", ".join(f"`{name}`" for name in names) + "."


def _subcommands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    found: dict[str, tuple[argparse.ArgumentParser, str]] = {}
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                kinds = [one for one in sub._actions if isinstance(one, argparse._SubParsersAction)]
                if not kinds:
                    found[name] = (sub, helps[name])
                for kind in kinds:  # a command with kinds of its own: each has its flags
                    texts = {choice.dest: choice.help or "" for choice in kind._choices_actions}
                    found |= {f"{name} {each}": (one, texts[each]) for each, one in kind.choices.items()}
    return found


def _flag(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    metavar = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    return f"`{name} {metavar}`" if action.option_strings and action.nargs != 0 and metavar else f"`{name}`"


def _groups(sub: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    titles = {"options": "other flags", "positional arguments": "arguments"}
    groups: dict[str, list[argparse.Action]] = {}
    for group in sub._action_groups:
        actions = [a for a in group._group_actions if a.dest not in ("help", "help_all")]
        if actions:
            title = group.title or ""
            groups[titles.get(title, title)] = actions
    return groups


def _usage(name: str, sub: argparse.ArgumentParser) -> str:
    must = [_flag(action).strip("`") for action in sub._actions if action.required]
    optional = any(not action.required and action.dest not in ("help", "help_all") for action in sub._actions)
    return " ".join(["foresighted", name, *must, *(["[flags]"] if optional else [])])


def commands_reference(_argument: str) -> str:
    """Every subcommand with every flag; groups that an earlier subcommand has too are named, not repeated."""
    parts = []
    seen: dict[tuple[str, ...], str] = {}
    for name, (sub, summary) in _subcommands().items():
        about = f"{summary[0].upper()}{summary[1:]}. {sub.description or ''}"
        parts.append(f"## foresighted {name}\n\n{about}\n\n```text\n{_usage(name, sub)}\n```\n")
        repeated: dict[str, list[str]] = {}
        for title, actions in _groups(sub).items():
            key = tuple(_flag(a) for a in actions)
            if key in seen:
                repeated.setdefault(seen[key], []).append(title)
                continue
            seen[key] = name
            rows = [(_flag(a), (a.help or "").replace("%%", "%")) for a in actions]
            parts.append(f"### {name}: {title}\n\n" + table(("flag", "meaning"), rows))
        for earlier, titles in repeated.items():
            parts.append(
                f"Flags for *{'*, *'.join(titles)}* are those of"
                f" [foresighted {earlier}](#foresighted-{earlier.replace(' ', '-')}).\n"
            )
    return "\n".join(parts)


def _row_classes() -> dict[str, tuple[str, list[tuple[str, str, str]]]]:
    """Return class name -> (docstring, columns with type and the docstring below the field)."""
    tree = ast.parse((SOURCE / "store" / "records.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if not (isinstance(node, ast.ClassDef) and node.name.endswith("Row")):
            continue
        columns = []
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                text = _docstring_below(after)
                columns.append((ast.unparse(field.target), ast.unparse(field.annotation), " ".join(text.split())))
        found[node.name] = (ast.get_docstring(node) or "", columns)
    return found


def _docstring_below(node: ast.stmt | None) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def columns_table(name: str) -> str:
    """Columns of a record class: name, type, meaning."""
    docstring, columns = _row_classes()[name]
    types = {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}
    rows = []
    for column, kind, text in columns:
        meaning = text or PLAIN_COLUMNS.get(f"{name}.{column}") or PLAIN_COLUMNS.get(column)
        if not meaning:
            raise PluginError(f"records.md: {name}.{column} has no meaning; write a docstring under it in records.py")
        words = types[kind.removesuffix(" | None")] + (" or null" if kind.endswith("| None") else "")
        rows.append((f"`{column}`", words, meaning))
    return f"{' '.join(docstring.split())}\n\n" + table(("column", "type", "meaning"), rows)


def modules(room: str) -> str:
    """The modules of a room (a folder or a file), for mkdocstrings. What an `__init__` offers again is not repeated."""
    path = SOURCE / room
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    names = [
        ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in files if file.stem != "__init__"
    ]
    return "\n\n".join(f"::: {name}" for name in names)


def included(name: str) -> str:
    """A Markdown file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def house(_argument: str) -> str:
    """The rooms and who imports whom, as one picture."""
    spec = importlib.util.spec_from_file_location("house", HERE / "house.py")
    if spec is None or spec.loader is None:
        raise PluginError("architecture.md: docs/house.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.picture(SOURCE))


MAKERS: dict[str, Callable[[str], str]] = {
    "settings": settings_tables,
    "preset": preset_table,
    "protocol": protocol_table,
    "names": names_list,
    "commands": commands_reference,
    "columns": columns_table,
    "modules": modules,
    "included": included,
    "house": house,
}
"""What a marker's first word makes; the rest of the marker is its argument."""
