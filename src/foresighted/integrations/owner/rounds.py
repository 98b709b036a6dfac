"""The records of a round, made from the journal: the same files as those of a run of `foresighted train`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch

from foresighted.alignment.rows import share, within_prompts
from foresighted.integrations.owner.book import Book
from foresighted.integrations.owner.events import Group, Round
from foresighted.integrations.owner.state import Scored
from foresighted.labels.pair import Pair, label_means, utilities
from foresighted.prompts import prompt_id
from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.numbers import mean, sigmoid
from foresighted.store.files import byte_counts, cut
from foresighted.store.records import CANDIDATES, ROUNDS, CandidateRow, RoundRow
from foresighted.store.rows import append
from foresighted.texts import text_of


def add(book: Book, event: Round, groups: Sequence[Scored]) -> RoundRow:
    """Append the candidates of a round, then the round, to files that are cut back to where it begins; return it."""
    for name, have in byte_counts(book.folder, event.records).items():
        if have > event.records[name]:
            cut(book.folder / name, event.records[name])
    read = [(book.journal.group(one.place), one) for one in groups]
    rows = [row for group, one in read for row in _candidates(event.number, group, one.pairs)]
    append(book.folder / CANDIDATES, rows)
    row = _round(event, read, rows)
    append(book.folder / ROUNDS, [row])
    return row


def _candidates(number: int, group: Group, pairs: Sequence[Pair]) -> list[CandidateRow]:
    size = len(group.members)
    paid = [m.score - m.penalty for m in group.members]
    labels, known = label_means(pairs, 1, size)[0], utilities(pairs, 1, size)[0]
    where = prompt_id(group.prompt), text_of(group.prompt)
    return [
        CandidateRow(
            number, *where, place, text_of(m.text), m.tokens, m.score, m.reference, m.gram, known[place],
            labels[place], -m.penalty, m.penalty, None, paid[place], place == paid.index(max(paid)),
        )
        for place, m in enumerate(group.members)
    ]  # fmt: skip


def _round(event: Round, groups: Sequence[tuple[Group, Scored]], rows: Sequence[CandidateRow]) -> RoundRow:
    winners = [row for row in rows if row.chosen]
    judged = [
        (asked.margin, pair.label)
        for group, one in groups
        for asked, pair in zip(group.pairs, one.pairs, strict=True)
        if pair.asked and pair.label is not None
    ]
    spread = [
        [within_prompts(torch.tensor([[getattr(m, name) for m in group.members]])) ** 2 for group, _ in groups]
        for name in ("penalty", "score")
    ]
    given = [one.labels for _, one in groups if one.labels is not None]
    gammas, shares = [g.gamma for g, _ in groups if g.foresight], [g.share for g, _ in groups if g.foresight]
    return RoundRow(
        round=event.number,
        reward=mean(row.reward for row in rows) or 0.0,
        reward_chosen=mean(row.reward for row in winners) or 0.0,
        reward_reference=mean(row.reference_reward for row in rows) or 0.0,
        utility_chosen=mean(row.utility for row in winners),
        utility_reference=None,
        penalty=mean(row.penalty for row in rows) or 0.0,
        penalty_chosen=mean(row.penalty for row in winners) or 0.0,
        overconfidence=overconfidence(judged),
        reward_model_loss=event.loss,
        reward_model_accuracy=accuracy(judged),
        policy_loss=None,
        tokens=mean(float(row.tokens) for row in rows) or 0.0,
        empty=sum(not row.text for row in rows),
        labels=len(judged),
        labels_total=event.labels_total,
        gamma=mean(gammas),
        gamma_share=mean(shares),
        reward_model_drift=event.drift,
        labels_failed=sum(len(labels.known) for labels in given if labels.failed),
        penalty_share=share(*(fmean(column) ** 0.5 for column in spread)),
        win_predicted=mean(sigmoid(margin) for margin, _ in judged),
        win_share=mean(label for _, label in judged),
        prompts_cut=sum(group.cut for group, _ in groups),
    )
