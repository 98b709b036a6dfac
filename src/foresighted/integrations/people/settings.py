"""Settings of the page on which people label pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from foresighted.inputs import shown
from foresighted.settings import Settings, setting

NAME = re.compile(r"[^\W_][\w .@-]{0,39}")
"""What a person may be called: a letter or digit, then at most 39 of letters, digits, spaces and `_.@-`."""


@dataclass(frozen=True)
class LabelConfig(Settings):
    """Who may label, and which pairs are asked more than once so that the labels can be trusted."""

    host: str = setting(
        "127.0.0.1",
        "page",
        "address that the page is served at; one that others can reach needs people, who get a link with a token each",
    )
    port: int = setting(8765, "page", "port of the page; 0: any that is free", low=0, high=65535)
    people: tuple[str, ...] = setting(
        (),
        "page",
        "names of those who may label; each gets a link with a token of their own (none: whoever sits at this machine"
        " says a name)",
    )
    guidelines: str | None = setting(None, "page", "Markdown file that the page shows above the pairs")
    order: Literal["newest", "oldest"] = setting(
        "newest", "questions", "which round's pairs are asked first: the newest are what the policy writes now"
    )
    both_orders: float = setting(
        0.1,
        "questions",
        "share of the pairs that a person is asked again with the responses in the other order: position bias",
        low=0,
        high=1,
    )
    again: float = setting(
        0.05, "questions", "share of the pairs that a person is asked again as before: self-agreement", low=0, high=1
    )
    shared: float = setting(
        0.1, "questions", "share of the pairs that a second person is asked, too: agreement", low=0, high=1
    )
    gap: int = setting(
        10, "questions", "answers of that person that lie between a pair and the same pair asked again", low=1
    )

    @property
    def reachable(self) -> bool:
        """Whether others than this machine can reach the page."""
        try:
            return not ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host != "localhost"

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield (
            bool(self.people) or not self.reachable,
            f"host: got {shown(self.host)}, which others can reach; give --people NAME,NAME, each of whom gets a link"
            " with a token, or host 127.0.0.1",
        )
        wrong = next((name for name in self.people if NAME.fullmatch(name) is None), None)
        told = "letters, digits, spaces and _.@-, at most 40 of them, a letter or digit first"
        yield wrong is None, f"people: got {shown(wrong)}; a name has {told}"
        twice = next((name for name in self.people if self.people.count(name) > 1), None)
        yield twice is None, f"people: {shown(twice)} is named twice; name each once"
        total = self.both_orders + self.again
        yield total <= 1, f"both_orders, again: got {total:g} together; a pair is asked again once, so at most 1"
