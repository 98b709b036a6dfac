"""What a server says of itself in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_COUNTERS = {
    "groups": "whole groups scored", "responses": "responses scored", "rounds": "rounds closed",
    "retrains": "updates of the reward model", "labels": "labels read", "labels_failed": "labels that did not come",
    "bare_responses": "responses paid without foresight though not evaluated",
    "refused_responses": "responses of groups that were incomplete at their deadline",
}  # fmt: skip
_GAUGES = {
    "version": "of the reward model", "held": "groups that are not whole yet",
    "unlabelled_groups": "groups without labels yet",
    "pairs_ready": "labelled pairs that were not learnt from yet", "pairs_pending": "pairs that wait in the queue",
}  # fmt: skip


class Metrics:
    """Counts requests and how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()
        self.waiting = 0
        """Responses that are read or waited for now."""

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        with self._lock:
            self._requests[path, status] += 1
            counts = self._seconds.setdefault(path, [0] * (len(BOUNDS) + 1))
            counts[next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))] += 1
            self._sums[path] += seconds  # type: ignore[assignment]  # a Counter adds anything

    def text(self, status: Mapping[str, Any]) -> str:
        """Return everything, with what the owner says of itself."""
        with self._lock:
            return "\n".join(self._lines(status)) + "\n"

    def _lines(self, status: Mapping[str, Any]) -> Iterator[str]:
        for names, kind, end in ((_COUNTERS, "counter", "_total"), (_GAUGES, "gauge", "")):
            for name, told in names.items():
                yield from _head(f"foresighted_{name}{end}", told, kind)
                yield f"foresighted_{name}{end} {status[name]}"
        yield from _head("foresighted_waiting_responses", "responses that are read or waited for", "gauge")
        yield f"foresighted_waiting_responses {self.waiting}"
        yield from _head("foresighted_http_requests_total", "requests", "counter")
        for (path, code), count in sorted(self._requests.items()):
            yield f'foresighted_http_requests_total{{path="{path}",status="{code}"}} {count}'
        yield from _head("foresighted_http_seconds", "time of a request", "histogram")
        for path, counts in sorted(self._seconds.items()):
            total = 0
            for bound, count in zip((*BOUNDS, "+Inf"), counts, strict=True):
                total += count
                yield f'foresighted_http_seconds_bucket{{path="{path}",le="{bound}"}} {total}'
            yield f'foresighted_http_seconds_sum{{path="{path}"}} {self._sums[path]:.6f}'
            yield f'foresighted_http_seconds_count{{path="{path}"}} {total}'


def _head(name: str, told: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"
