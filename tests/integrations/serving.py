"""A page for people that can be killed and started again at once: each line on standard input forks a server.

It is told the words of `foresighted label`, and answers with the process's id and the address that it printed.
"""

from __future__ import annotations

import os
import sys

import uvicorn  # noqa: F401  # loaded once, for all that are forked

import foresighted.integrations.people.server  # noqa: F401
from foresighted.cli.main import main

for _ in sys.stdin:
    told, say = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(say, 1)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        os._exit(main(["label", *sys.argv[1:]]))
    os.close(say)
    with os.fdopen(told) as heard:
        print(child, heard.readline().strip(), flush=True)
