"""`foresighted evaluate`: answers of two or more policies, judged in pairs, with win rates and capability checks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from foresighted.api.evaluate import evaluate, plan
from foresighted.cli.console import console
from foresighted.cli.options import add_run_flags, add_settings, given, places
from foresighted.errors import ConfigError
from foresighted.judging.result import Evaluation
from foresighted.judging.settings import EvaluateConfig
from foresighted.settings import to_yaml
from foresighted.statistics.intervals import Interval
from foresighted.statistics.wording import interval_text, p_text, rating_text, share_text
from foresighted.texts import printable


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "evaluate",
        help="answers of two or more policies, judged in pairs: win rates with intervals",
        description="Lets each policy answer the same prompts, shows each pair of answers to a judge in both orders,"
        " and reports wins, ties and losses with tests and intervals, next to length, repetition and refusals. Nothing"
        " is generated or paid for twice: a stopped evaluation goes on with --resume.",
        examples=(
            "foresighted evaluate --policies before=embedded,after=runs/first --judge likelihood --out runs/judged",
            "foresighted evaluate --policies a=a.jsonl,b=b.jsonl --judge openai:MODEL --out runs/paid --dry-run",
            "foresighted evaluate --judgements table.csv",
        ),
        matter=(
            "policies", "prompts", "prompt_limit", "max_new_tokens", "judge", "base_url", "api_key_env", "rubric",
            "categories", "capabilities",
        ),
    )  # fmt: skip
    add_run_flags(
        parser,
        out="directory of the evaluation (needed but for --judgements)",
        resume="go on with the evaluation in DIR, or add policies to it",
        dry_run="check, print settings and an estimate of tokens, do nothing",
        must=False,
    )
    group = parser.add_argument_group("judgements made elsewhere")
    group.add_argument(
        "--judgements", type=Path, metavar="FILE",
        help="report on a table with columns A_vs_B (winner's name or tie), and prompt_id, category, seed, words_A,"
        " same_A_B where there are any; nothing is asked",
    )  # fmt: skip
    group.add_argument("--baseline", metavar="NAME", help="policy to compare with (default: the first that appears)")
    add_settings(parser, EvaluateConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    values = given(args, EvaluateConfig)
    if args.judgements is None and args.out is None:
        raise ConfigError("out: needed; give --out DIR")
    if args.dry_run and args.judgements is not None:
        raise ConfigError("dry-run: has no meaning with --judgements, which asks nobody")
    if args.dry_run:
        config, estimate = plan(values, **places(args))
        print(to_yaml(config), end="")
        print(f"# answers to generate: {estimate.answers}; pairs: {estimate.pairs}")
        print(f"# requests to the judge: at most {estimate.requests}, about {estimate.tokens} tokens")
        return
    more = {"judgements": args.judgements, "baseline": args.baseline, "progress": not args.quiet}
    print_evaluation(evaluate(**values, **places(args), **more).data)
    if args.judgements is None:
        print(f"evaluation: {args.out}")


def print_evaluation(evaluation: Evaluation) -> None:
    """Print what was seen: tables of pairs, categories, policies and capabilities, then the sentences."""
    to = console()
    for table in (_pairs(evaluation), _categories(evaluation), _policies(evaluation)):
        if table.row_count:
            to.print(table)
    for sentence in evaluation.sentences:
        to.print(f"- {printable(sentence)}", highlight=False, markup=False)


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _titled(title: str, *columns: str) -> Table:
    table = Table(title=Text(printable(title)), box=box.SIMPLE, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    return table


def _pairs(evaluation: Evaluation) -> Table:
    table = _titled(
        f"{evaluation.prompts} prompts: {evaluation.prompt_source}", "pair", "wins", "ties", "losses", "position bias",
        "failed", "win rate", "of decided", "p", "p (Holm)", "longer won",
    )  # fmt: skip
    for pair in evaluation.pairs:
        counts, longer = pair.counts, pair.lengths.longer_won if pair.lengths else None
        _add(
            table,
            f"{pair.first} over {pair.second}", str(counts.wins), str(counts.ties), str(counts.losses),
            str(counts.position_bias) if pair.bias else "-", str(counts.failed), _text(pair.win_rate),
            share_text(pair.decided) if pair.decided else "-", _p(pair.p), _p(pair.holm),
            share_text(longer) if longer else "-",
        )  # fmt: skip
    return table


def _categories(evaluation: Evaluation) -> Table:
    table = _titled("by category", "category", "pair", "wins", "ties", "losses", "position bias", "failed", "p")
    for pair in evaluation.pairs:
        for group in pair.categories:
            counts = group.counts
            numbers = (counts.wins, counts.ties, counts.losses, counts.position_bias, counts.failed)
            _add(table, group.name, f"{pair.first} over {pair.second}", *map(str, numbers), _p(group.p))
    return table


def _policies(evaluation: Evaluation) -> Table:
    table = _titled("policies", "policy", "answers", "words", "repetition", "refusals", "empty", "rating (log-odds)")
    for policy in evaluation.policies:
        shown = rating_text(policy.rating) if policy.rating else "-"
        shown = "0 (baseline)" if policy.rating and policy.name == evaluation.baseline else shown
        _add(
            table,
            policy.name, str(policy.answers), _text(policy.words), _text(policy.repetition),
            share_text(policy.refusals) if policy.refusals else "-", str(policy.empty), shown,
        )  # fmt: skip
    return table


def _p(value: float | None) -> str:
    return "-" if value is None else p_text(value)


def _text(interval: Interval | None) -> str:
    return interval_text(interval) if interval else "-"
