"""A webhook for alarms: one JSON object, as Slack, Mattermost and the like take it, or a server of one's own."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from foresighted.errors import ConfigError

SECONDS = 5.0
"""A loop waits no longer for it."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An alarm goes to the address that was given and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing."""


def check_address(address: str) -> None:
    """Refuse what is no http(s) address.

    Raises:
        ConfigError: naming only the scheme and host: the rest of such an address is often a secret.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("webhook: got no http:// or https:// address with a host; give the whole address")


def post(address: str, alarm: Mapping[str, Any]) -> str | None:
    """Send an alarm; return what went wrong in one line without the address' path, None where nothing did.

    The body is the alarm's fields and `text`, the sentence that chat services show.
    """
    text = f"foresighted: step {alarm.get('step')}: {alarm.get('verdict')}: {alarm.get('reason')}"
    body = json.dumps({"text": text, **alarm}, ensure_ascii=False).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
    host = urlsplit(address).hostname
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS) as reply:
            reply.read(1024)
    except urllib.error.HTTPError as error:
        return f"webhook: {host} answered {error.code}, so the alarm may not have arrived; check the address"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        return f"webhook: {host} was not reached ({reason}); the alarm was not sent"
    except Exception as error:  # http.client has its own for replies that are none
        return f"webhook: {host} answered what is no HTTP ({type(error).__name__}); the alarm may not have arrived"
    return None
