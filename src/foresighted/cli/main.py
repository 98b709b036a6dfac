"""The `foresighted` command: finds the subcommand, turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from foresighted import __version__
from foresighted.cli import audit, compare, evaluate, label, owner, rehearse, report, serve, simulate, train, watch
from foresighted.cli.options import Parser
from foresighted.errors import ForesightedError, Stopped, one_line
from foresighted.judging.key import without_keys
from foresighted.store.directory import refused
from foresighted.texts import printable

BAD_INPUT = 2
FAULT = 70
"""A fault of the program (EX_SOFTWARE): never 1, which says that a loop collapsed."""
TRACEBACK = "FORESIGHTED_TRACEBACK"
"""Environment variable that shows where a fault is."""
INTERRUPTED = 130
BROKEN_PIPE = 141
_OF_A_DEVICE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def parser() -> Parser:
    """Return the parser of the whole command."""
    top = Parser(
        prog="foresighted",
        description="Foresighted Policy Optimization for iterative RLHF: train with a steering penalty, compare arms,"
        " and see whether a loop collapses.",
    )
    top.add_argument("--version", action="version", version=f"foresighted {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", required=True, parser_class=Parser)
    for module in (train, compare, rehearse, label, evaluate, report, simulate, audit, watch, serve, owner):
        module.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0 done, 1 the audit found collapse, 2 bad input or a disk that refuses, 70 a fault of the program, 130 interrupted,
    141 whoever read the output has gone (as a shell says of SIGPIPE).
    """
    _hold_closed()
    try:
        try:
            code = _run(arguments)
        finally:  # after --help, too
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:  # every file of ours names itself
        code = _say(f"standard output: {error.strerror}; free some space, or write it elsewhere", BAD_INPUT)
    except SystemExit as leaving:  # argparse, after --help or a wrong flag
        _abandon_broken_output()
        raise leaving from None
    _abandon_broken_output()
    return code


def _run(arguments: Sequence[str] | None) -> int:
    args = parser().parse_args(arguments)
    _quieten()
    try:
        return args.run(args) or 0  # None: done
    except ForesightedError as error:
        return _say(str(error), BAD_INPUT)
    except Stopped as stop:
        return _say(str(stop), INTERRUPTED)
    except KeyboardInterrupt:
        return _say("stopped; finished rounds are saved, go on with --resume", INTERRUPTED)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:
            return _say(refused(error), BAD_INPUT)
        if error.errno in _OF_A_DEVICE:
            raise
        return _fault(error)
    except ImportError as error:
        ours = error.name is None or error.name.partition(".")[0] == "foresighted"
        if ours and not isinstance(error, ModuleNotFoundError):
            return _fault(error)
        return _say(f"{args.command}: needs {error.name}; pip install 'foresighted[all]'", BAD_INPUT)
    except MemoryError:
        return _say(f"{args.command}: out of memory; ask for less at a time, or for a smaller model", BAD_INPUT)
    except SystemExit as leaving:  # of a signal
        return leaving.code if isinstance(leaving.code, int) and leaving.code > 128 else _fault(leaving)
    except BaseException as error:  # libraries in Rust panic outside of Exception
        return _fault(error)


def _fault(error: BaseException) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    told = f"a fault of foresighted itself: {one_line(error)}; {TRACEBACK}=1 shows where"
    return _say(told, FAULT)


def _hold_closed() -> None:
    """Put the null device where a standard stream was closed: a file of ours would take its number, and get what
    libraries print."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))


def _abandon_broken_output() -> None:
    """Have Python say nothing more of an output that cannot be written: it would, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str, code: int) -> int:
    """Print one line; what a file holds must not steer a terminal, and no key is shown."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads it; the exit code says it, too
        print(f"foresighted: {printable(without_keys(' '.join(text.split())))}", file=sys.stderr)
    return code


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(without_keys(super().format(record)))


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
