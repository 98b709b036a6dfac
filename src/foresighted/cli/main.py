"""The `foresighted` command: finds the subcommand, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from foresighted import __version__
from foresighted.cli import audit, compare, evaluate, report, simulate, train
from foresighted.cli.options import Parser
from foresighted.errors import ForesightedError, Stopped
from foresighted.texts import printable

BAD_INPUT = 2
FAULT = 70
"""A fault of the program (EX_SOFTWARE): never 1, which says that a loop collapsed."""
TRACEBACK = "FORESIGHTED_TRACEBACK"
"""Environment variable that shows where a fault is."""
INTERRUPTED = 130


def parser() -> Parser:
    """Return the parser of the whole command."""
    top = Parser(
        prog="foresighted",
        description="Foresighted Policy Optimization for iterative RLHF: train with a steering penalty, compare arms,"
        " and see whether a loop collapses.",
    )
    top.add_argument("--version", action="version", version=f"foresighted {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", required=True, parser_class=Parser)
    for module in (train, compare, evaluate, report, simulate, audit):
        module.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0 done, 1 the audit found collapse, 2 bad input, 70 a fault of the program, 130 interrupted.
    """
    args = parser().parse_args(arguments)
    _quieten()
    try:
        code: int | None = args.run(args)  # None: done
    except ForesightedError as error:
        return _say(str(error), BAD_INPUT)
    except ImportError as error:
        return _say(f"{args.command}: needs {error.name}; pip install 'foresighted[all]'", BAD_INPUT)
    except Stopped as stop:
        return _say(str(stop), INTERRUPTED)
    except KeyboardInterrupt:
        return _say("stopped; finished rounds are saved, go on with --resume", INTERRUPTED)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        told = f"a fault of foresighted itself: {type(error).__name__}: {error}; {TRACEBACK}=1 shows where"
        return _say(told, FAULT)
    return code or 0


def _say(text: str, code: int) -> int:
    """Print one line; what a file holds must not steer a terminal."""
    print(f"foresighted: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _quieten() -> None:
    logging.basicConfig(level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Printable("foresighted: %(message)s"))
    for name in ("transformers", "peft", "accelerate", "torch", "filelock", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries; the failure itself is our one line
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars; ours are rich's
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")  # of libraries; ours are log messages
