"""What an owner says of itself, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foresighted.integrations.owner.state import State


def of_state(state: State, versions: Sequence[int]) -> dict[str, Any]:
    """Return what a journal comes to."""
    counts = state.buffer.counts
    return {
        "version": state.version, "versions": list(versions), "rounds": state.rounds, "groups": state.groups,
        "responses": state.responses, "retrains": len(state.made), "rollbacks": state.rollbacks,
        "labels": counts.labels_total, "labels_failed": counts.labels_failed,
        "unlabelled_groups": len(state.unlabelled), "pairs_ready": len(state.buffer.ready),
        "pairs_pending": len(state.buffer.pending), "pairs_given_up": counts.given_up,
        "bare_responses": state.bare, "refused_responses": state.refused,
    }  # fmt: skip
