"""`foresighted label`: a page on which people label the pairs that a run asks about."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from foresighted.api.label import label
from foresighted.cli.options import add_settings, given
from foresighted.errors import ConfigError
from foresighted.integrations.people.settings import LabelConfig
from foresighted.labels.quality import quality, told
from foresighted.statistics.wording import count
from foresighted.texts import printable


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "label",
        help="a page on which people label the pairs that a run asks about",
        description="Serves a page in the browser: a prompt, two responses in random order, and the keys 1, 2, 0 (tie),"
        " s (skip), u (take back). Each answer is on the disk before the next pair comes, and the run takes it from"
        " there, while it goes on, waits or has been stopped.",
        examples=(
            "foresighted train --labels people/ --wait-for-labels 4 --out runs/first",
            "foresighted label runs/first",
            "foresighted label people/ --people ann,bob --guidelines rules.md",
        ),
        matter=("people", "guidelines", "host", "port", "both_orders", "again", "shared", "order"),
    )  # fmt: skip
    parser.add_argument("queue", type=Path, metavar="QUEUE", help="folder of --labels FOLDER/, or a run's directory")
    group = parser.add_argument_group("in place of the page")
    group.add_argument(
        "--export", type=Path, metavar="FILE", help="write the questions, and what was answered, for another tool"
    )
    group.add_argument(
        "--format",
        choices=("csv", "argilla", "label-studio"),
        default="csv",
        help="of that file: a table for a spreadsheet (default), or JSON of one of these",
    )
    group.add_argument("--import", dest="answers", type=Path, metavar="FILE", help="take the answers in such a file")
    group.add_argument("--by", metavar="NAME", default="", help="whose answers they are, where that file does not say")
    group.add_argument("--summary", action="store_true", help="say how far the labels can be trusted")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings; flags override them")
    add_settings(parser, LabelConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    asked = [name for name in ("export", "answers", "summary") if getattr(args, name)]
    if len(asked) > 1:
        raise ConfigError("export, import, summary: each is done alone; give one of them")
    values = given(args, LabelConfig)
    if not asked:
        label(args.queue, config=args.config, tell=lambda line: print(line, flush=True), **values)
        return
    if values:
        raise ConfigError(f"{next(iter(values))}: a setting of the page, which {asked[0]} does not serve; leave it out")
    from foresighted.integrations.people.serve import only_writer, queue_of

    queue = queue_of(args.queue)
    if args.export is not None:
        from foresighted.labels.exchange import write_out

        print(f"{count(write_out(queue, args.export, args.format), 'question')}: {args.export}")
    elif args.answers is not None:
        from foresighted.labels.exchange import read_in

        with only_writer(queue):
            taken = read_in(queue, args.answers, args.by)
        print(
            f"{count(taken.new, 'new answer')}, {taken.changed} in place of earlier ones, {taken.same} known already,"
            f" {count(taken.empty, 'row')} without one"
        )
    else:
        for sentence in told(quality(queue.answers(), len(queue.questions()))):
            print(f"- {printable(sentence)}")
