"""What happened in a run: one JSON line a candidate, one a round, one a held-out answer.

The loop writes these files, audit and report read nothing else. A line is a dataclass below (`rows` reads and writes
them); a file is only ever appended to, in whole rounds, and cut back to a checkpoint's byte count when a run resumes.
Nothing in a line depends on the clock, so that two runs that did the same leave the same bytes (wall time goes to
`timings.jsonl`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from foresighted.store.rows import SPARSE


@dataclass(frozen=True)
class CandidateRow:
    """One candidate of one prompt in one round."""

    round: int
    prompt_id: str
    prompt: str
    candidate: int
    text: str
    tokens: int
    reward: float
    """Proxy reward r(x, y) before this round's update of the reward model."""
    reference_reward: float
    """Proxy reward of this prompt's reference response, or the mean over the other candidates where there is none."""
    gram: float
    """S = <t, g - g'>, g the reward model's gradient at the candidate (in the run's scope), g' at the reference; t is g
    itself (g - g' if the margin is paid), or the mean over the round's candidates (influence `batch`)."""
    utility: float | None
    """True utility U(x, y) where it was read, else null."""
    label: float | None
    """Preference of the candidate over the reference (or, without one, over the candidates it was compared with), in
    [0, 1], where it was read, else null."""
    influence: float
    """I(y), what training on y would do to its own reward, or to the round's mean: -penalty."""
    penalty: float
    kl: float | None
    """log pi(y | x) - log pi_ref(y | x) in nats, where `kl_coefficient` made it needed, else null."""
    score: float
    """reward (or `paid`, where it is there) - penalty - kl_coefficient * kl; with `selection` labels its log-odds stand
    for the first two. What the choice was made by, and what a policy gradient raises."""
    chosen: bool
    paid: float | None = field(default=None, metadata=SPARSE)
    """What the policy is paid for it, before penalty and KL, where `confidence`, `shaping` or `correction` make that
    another number than the reward; else there is no such column."""


@dataclass(frozen=True)
class RoundRow:
    """One round: means over its prompts (`_chosen`: winners only)."""

    round: int
    reward: float
    reward_chosen: float
    reward_reference: float
    utility_chosen: float | None
    utility_reference: float | None
    penalty: float
    penalty_chosen: float
    overconfidence: float | None
    """Mean over the pairs labelled in this round of sigma(|margin|) - label of the side that the reward model prefers,
    before the update (0 for a margin of 0): above 0, it believes too much. Null without a label."""
    reward_model_loss: float | None
    """Before the update; null in a round without one."""
    reward_model_accuracy: float | None
    """Share of these pairs that the reward model ordered as the label does, before the update: a margin of 0 counts one
    half, a label of one half not at all. Null without a pair."""
    policy_loss: float | None
    """Before the update; null where another engine trains the policy, or where all candidates of each prompt scored
    alike and a policy gradient took no step."""
    tokens: float
    empty: int
    """Candidates without any visible text: never chosen."""
    labels: int
    labels_total: int
    """Preferences read so far for selection or training, the initial pairs included."""
    gamma: float | None = None
    """Steering weight in the form's own units; 0 without steering, null in records of 0.1.0."""
    gamma_share: float | None = None
    """The same as a share of the spread of rewards within a prompt; null without steering or without spread."""
    reward_model_drift: float | None = None
    """Mean absolute change, since the first round, of the rewards of a fixed set of responses; null where none is."""
    labels_failed: int = 0
    """Labels asked for and not given in time: no label was guessed."""
    penalty_share: float | None = None
    """Variance of the penalty over that of penalty and reward (or `paid`) together, within prompts: 1 where the penalty
    alone tells candidates apart. Null where nothing differs, and in records of 0.2, as are the following."""
    win_predicted: float | None = None
    """Mean over the pairs labelled in this round of sigma(margin) of the candidate, before they are learnt from."""
    win_share: float | None = None
    """Mean of their labels: what `win_predicted` should have been."""
    kl: float | None = None
    """Mean over candidates of log pi - log pi_ref, in nats; null where it was not needed."""
    prompts_cut: int = 0
    """Texts of the round (references, too) of which the reward model read the prompt without its beginning."""
    returned_to: int | None = field(default=None, metadata=SPARSE)
    """The round that the policy wrote with the weights to which it went back: 1, before this round, by
    `policy_reset_every`; its best one, in place of this round's update, by `rollback_window`. Else absent."""


@dataclass(frozen=True)
class HeldoutRow:
    """One held-out prompt answered by the policy after `round` rounds (0: before the first)."""

    round: int
    prompt_id: str
    prompt: str
    kind: str
    text: str
    tokens: int
    reward: float
    utility: float | None
    kl: float | None
    """Sum over the answer's tokens of log pi - log pi_ref: a sample of KL(pi || pi_ref) in nats, or null."""
    distinct_1: float
    distinct_2: float
    """Share of distinct words and word pairs in the answer."""


@dataclass(frozen=True)
class ReferenceRow:
    """A response of the frozen policy that a round's candidates are compared with; the same for every arm of a seed."""

    round: int
    prompt_id: str
    prompt: str
    text: str
    tokens: int
    utility: float | None
    """None but for a prompt's first one, or where it is not known."""
    reference: int = 0
    """Which of the prompt's references; the first is what candidates are labelled against."""


@dataclass(frozen=True)
class PairRow:
    """One labelled pair of frozen-policy responses on which the reward model was first fitted."""

    prompt_id: str
    prompt: str
    first: str
    second: str
    label: float


CANDIDATES = "candidates.jsonl"
ROUNDS = "rounds.jsonl"
HELDOUT = "heldout.jsonl"
REFERENCES = "references.jsonl"
INITIAL_PAIRS = "initial_pairs.jsonl"
TIMINGS = "timings.jsonl"
RECORD_FILES = (CANDIDATES, ROUNDS, HELDOUT)
"""The files that a checkpoint pins to a byte count."""
