"""Serving the page: whose queue it is, that one server has it, and where it is reached."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foresighted.errors import ConfigError, RunError
from foresighted.integrations.people.desk import Desk
from foresighted.integrations.people.gate import Gate
from foresighted.integrations.people.settings import LabelConfig
from foresighted.labels.queue import FileQueue, is_folder
from foresighted.settings import read_yaml
from foresighted.store.directory import CONFIG, NOUNS, kind_of

_log = logging.getLogger(__name__)
LOCK = ".label.lock"


def queue_of(path: Path) -> FileQueue:
    """Return the queue in a folder, or the one that a run or a comparison asks in.

    Raises:
        ConfigError: nothing is there, or what is there asks nobody.
    """
    kind = kind_of(path)
    if kind in ("run", "comparison"):
        labels = str(read_yaml(path / CONFIG).get("labels"))
        if not is_folder(labels):
            told = f"{path} has its labels from {labels}, and asks nobody"
            raise ConfigError(f"queue: {told}; give a run with --labels FOLDER/, or that folder")
        if not Path(labels).is_dir():
            raise ConfigError(
                f"queue: {path} asks in {labels}, which is not here; start from where the run was started"
            )
        return FileQueue(labels)
    if not path.is_dir():
        what = "is a file" if path.is_file() else "is not there"
        told = "the folder that train --labels FOLDER/ or FPOReward(labels='FOLDER/') asks in, or a run's directory"
        raise ConfigError(f"queue: {path} {what}; give {told}")
    if kind not in ("queue", "nothing", "other"):
        raise ConfigError(f"queue: {path} holds {NOUNS[kind]}; give the folder in which its run asks people")
    return FileQueue(path)


@contextmanager
def only_writer(queue: FileQueue) -> Iterator[None]:
    """Keep others who would write answers out of a queue for a `with` block, and make its last line whole.

    Raises:
        RunError: another process has it.
    """
    from filelock import FileLock, Timeout

    try:
        held = FileLock(queue.folder / LOCK, timeout=0).acquire()
    except Timeout:
        told = "use that page, or stop it first"
        raise RunError(f"queue: another foresighted label has {queue.folder}; {told}") from None
    with held:
        queue.mend()
        yield


def serve(queue: FileQueue, config: LabelConfig, tell: Callable[[str], None]) -> None:
    """Serve the page until it is stopped.

    Args:
        queue: where pairs come from and answers go.
        config: who may label, and what is asked more than once.
        tell: told the addresses to open, one a line, once the page is there.

    Raises:
        RunError: another server has the queue, or the address cannot be had.
        ConfigError: guidelines that cannot be read.
        DataError: a line of the queue that is none.
    """
    import uvicorn

    from foresighted.integrations.people.server import application

    guidelines = _guidelines(config.guidelines)
    with only_writer(queue), _listening(config) as listening:
        queue.questions(), queue.answers()  # faults are told here, before anybody labels
        gate = Gate(queue.folder, config)
        host, port = listening.getsockname()[:2]
        if config.reachable:
            _log.warning("host: %s is plain HTTP: put a proxy with TLS before it, or use an SSH tunnel", config.host)
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        for name in config.people or ("",):
            tell(f"{name}: {where}?token={gate.token(name)}" if name else where)
        app = application(Desk(queue, config), gate, guidelines)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False)
        with suppress(KeyboardInterrupt):  # the way to stop it
            uvicorn.Server(settings).run(sockets=[listening])


def _guidelines(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(f"guidelines: {path} cannot be read ({why}); give a Markdown file") from None


@contextmanager
def _listening(config: LabelConfig) -> Iterator[socket.socket]:
    host = config.host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, config.port), family=family)
    except OSError as error:
        told = f"host, port: {config.host}, port {config.port} cannot be had ({error.strerror})"
        raise RunError(f"{told}; give another --port, or 0 for any that is free") from None
    with made:
        yield made
