"""Settings of a reward owner that answers over HTTP."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foresighted.errors import ConfigError
from foresighted.inputs import regular
from foresighted.integrations.owner import OwnerConfig
from foresighted.settings import Settings, setting

TOKEN = "FORESIGHTED_TOKEN"
"""Environment variable that holds the bearer token, where no file does."""
SHORTEST = 16
"""Characters of a token."""


@dataclass(frozen=True)
class ServeConfig(Settings):
    """Where a server listens, what it takes, and the owner behind it."""

    owner: OwnerConfig
    host: str = setting("127.0.0.1", "server", "address to listen on; any but loopback needs a token")
    port: int = setting(8000, "server", "port to listen on; 0: a free one", low=0, high=65535)
    token_file: str | None = setting(
        None, "server", f"file of the bearer token that requests must carry (default: ${TOKEN}, else none)"
    )
    waiting: int = setting(
        4096, "server", "most responses that are read or waited for at a time; beyond it requests get 503", low=1
    )
    body_limit: int = setting(8 << 20, "server", "largest body of a request, in bytes", low=1024)
    end_tokens: tuple[str, ...] = setting(
        ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "<eos>", "</s>"),
        "server",
        "special tokens that a stock client leaves at the end of a response, and that are not read",
    )

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield bool(self.host), "host: got nothing; give an address, 127.0.0.1 say"

    def token(self) -> str | None:
        """Return the bearer token that requests must carry, if any.

        Raises:
            ConfigError: none, and the server listens to other machines; or a file without one, or a short one.
        """
        where, text = f"${TOKEN}", os.environ.get(TOKEN, "")
        if self.token_file is not None:
            where = self.token_file
            try:
                text = regular(Path(self.token_file), most=1 << 16).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ConfigError(f"token_file: {where} cannot be read ({error})") from None
        text = text.strip()
        if not text and self.token_file is None:
            if is_loopback(self.host):
                return None
            raise ConfigError(
                f"host: {self.host} is reached from other machines, and there is no token; put one in {TOKEN} or"
                " --token-file (openssl rand -hex 32 makes one), or listen on 127.0.0.1"
            )
        if len(text) < SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
            told = f"at least {SHORTEST} printable characters without spaces"
            raise ConfigError(f"token: what {where} holds is none; expected {told} (openssl rand -hex 32)")
        return text


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
