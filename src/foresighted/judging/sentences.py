"""What an evaluation says, in plain English: as true of a wished result as of any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foresighted.judging.result import Capability, Evaluation, JudgeResult, PairResult, PolicyResult
from foresighted.statistics.intervals import Interval
from foresighted.statistics.wording import (
    count,
    interval_text,
    methods_text,
    p_equals,
    p_text,
    rating_text,
    share_text,
)

_BY_CHANCE = 0.05
_SUBSTANTIAL = 0.1  # share of pairs


def sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what was seen: verdicts with intervals, then what limits them."""
    said: list[str] = []
    for pair in evaluation.pairs:
        said += _pair_sentences(pair, len(evaluation.pairs), evaluation.level)
    said += _rating_sentence(evaluation)
    said += _answer_sentences(evaluation.policies)
    said += _capability_sentences(evaluation.capabilities)
    said += _design_sentences(evaluation)
    if evaluation.judge is not None:
        said += _judge_sentences(evaluation.judge)
    return tuple(said)


def _pair_sentences(pair: PairResult, pairs: int, level: float) -> Iterable[str]:
    counts, name = pair.counts, f"{pair.first} over {pair.second}"
    if counts.failed:
        yield (
            f"{name}: judging failed on {counts.failed} of {counts.failed + counts.judged} pairs"
            f" ({_kinds(pair.failures)}); they count neither as ties nor as anything else."
        )
    if not counts.judged:
        yield f"{name}: no pair has a verdict, so nothing can be said."
        return
    extra = f", {counts.position_bias} with orders that disagree" if counts.position_bias else ""
    head = f"{name}: {counts.wins}:{counts.losses} ({count(counts.ties, 'tie')}{extra})"
    if pair.p is None or pair.net is None:
        yield f"{head}. No pair was decided, so no difference can be seen."
        yield from _bias_sentences(pair, name)
        return
    corrected = f", {p_text(pair.holm)} after Holm's correction for {pairs} comparisons" if pairs > 1 else ""
    yield f"{head}, {p_equals(pair.p)}{corrected}. {_verdict(pair, pair.net, pair.p, 1 - level)}"
    decided = counts.wins + counts.losses
    if 2 * 0.5**decided > _BY_CHANCE:
        yield f"{name}: with {count(decided, 'decided pair')} no outcome whatever could have shown a difference."
    undecided = counts.judged - decided
    if undecided > decided:
        same = f", {pair.identical} of them because the answers are the same text" if pair.identical else ""
        yield (
            f"{name}: {undecided} of {counts.judged} pairs are undecided{same}; the test speaks about the"
            f" {decided} others only."
        )
    yield from _length_sentences(pair, name, level)
    yield from _bias_sentences(pair, name)


def _verdict(pair: PairResult, net: Interval, p: float, alpha: float) -> str:
    """Return what may be concluded: a difference needs the corrected test, and with several seeds the interval too."""
    corrected = pair.holm if pair.holm is not None else p
    size = f"win rate {interval_text(pair.win_rate)}" if pair.win_rate else ""
    direction = "more" if net.mean > 0 else "less"
    across = len(pair.seeds) > 1
    if corrected < alpha and (net.excludes_zero or not across):
        return f"The judge prefers {pair.first} {direction} often than {pair.second} ({size})."
    if corrected < alpha:
        return (
            f"Over these prompts the judge prefers {pair.first} {direction} often, but the seeds differ too much to say"
            f" that it would hold for others ({size})."
        )
    if p < alpha:
        return (
            f"A hint that {pair.first} wins {direction} often, not a finding: it does not survive the correction"
            f" ({size})."
        )
    return f"No clear difference ({size}); what that interval holds is not ruled out."


def _length_sentences(pair: PairResult, name: str, level: float) -> Iterable[str]:
    lengths = pair.lengths
    if lengths is None or lengths.longer_won is None:
        return
    won = lengths.longer_won
    text = f"{name}: mean length {lengths.first_mean:.0f} against {lengths.second_mean:.0f} words"
    if lengths.longer_p is not None and lengths.longer_p < 1 - level:
        which = "longer" if won.mean > 0.5 else "shorter"
        text += f"; the {which} answer won {max(won.mean, 1 - won.mean):.0%} of {won.total} decided pairs"
        if lengths.controlled is not None:
            text += f", and at equal length {pair.first} would win {share_text(lengths.controlled)} of them"
        yield f"{text}."
    else:
        yield f"{text}; the longer answer won {share_text(won)} of decided pairs: no sign that length decides."


def _bias_sentences(pair: PairResult, name: str) -> Iterable[str]:
    bias, judged = pair.bias, pair.counts.judged
    if bias is None or not pair.counts.position_bias:
        return
    share = pair.counts.position_bias / judged
    text = (
        f"{name}: the judge contradicts itself when the order is turned on {pair.counts.position_bias} of {judged}"
        f" pairs (always the first shown {bias.preferred_first}, always the second {bias.preferred_second}, a tie in"
        f" one order only {bias.half})"
    )
    yield f"{text}; such a judge is a weak instrument." if share > _SUBSTANTIAL else f"{text}."


def _rating_sentence(evaluation: Evaluation) -> Iterable[str]:
    rated = [(policy.name, policy.rating) for policy in evaluation.policies if policy.rating]
    if len(evaluation.policies) < 3 or not rated:
        return
    texts = [f"{name} {rating_text(rating)}" for name, rating in rated if name != evaluation.baseline]
    yield f"Bradley-Terry ratings in log-odds against {evaluation.baseline}: {', '.join(texts)}."


def _answer_sentences(policies: Sequence[PolicyResult]) -> Iterable[str]:
    for policy in policies:
        notes = []
        if policy.empty:
            notes.append(f"{policy.empty} of {policy.answers} answers are empty")
        if policy.refusals and policy.refusals.mean > _SUBSTANTIAL:
            notes.append(f"{share_text(policy.refusals)} of answers open as a refusal")
        if policy.repetition and policy.repetition.mean > _SUBSTANTIAL:
            notes.append(f"{policy.repetition.mean:.0%} of word pairs repeat")
        if notes:
            yield f"{policy.name}: {', '.join(notes)}; read its answers before its win rate."


def _capability_sentences(capabilities: Sequence[Capability]) -> Iterable[str]:
    for task in dict.fromkeys((one.task, one.metric) for one in capabilities):
        own = [one for one in capabilities if (one.task, one.metric) == task]
        asked, available = own[0].items, own[0].available
        few = f", {asked} of {available} items" if asked < available else f", all {available} items"
        texts = []
        for one in own:
            against = ""
            if one.difference is not None:
                clear = "" if one.difference.excludes_zero else ", no clear difference"
                against = f" (against the baseline {interval_text(one.difference)}{clear})"
            texts.append(f"{one.policy} {interval_text(one.score)}{against}")
        yield f"{task[0]} ({task[1]}{few}): {'; '.join(texts)}."


def _design_sentences(evaluation: Evaluation) -> Iterable[str]:
    if evaluation.missing:
        yield f"{count(evaluation.missing, 'prompt')} left out: some policy has no answer to them."
    if not evaluation.pairs:
        return
    seeds = {len(pair.seeds) for pair in evaluation.pairs}
    if seeds == {1}:
        yield (
            "One training seed a policy: intervals and tests speak about prompts only, and another training run of the"
            " same method may come out otherwise."
        )
    elif min(seeds) < 5:
        yield f"{min(seeds)} training seeds are few: intervals resample them, and are wide for it."
    shown = [value for pair in evaluation.pairs for value in (pair.win_rate, pair.decided)]
    yield f"{evaluation.multiplicity} Brackets are {evaluation.level:.0%} {methods_text(shown)}."
    if all(pair.bias is None for pair in evaluation.pairs):
        yield "These judgements say nothing of the order in which answers were shown, so position bias is not known."


def _judge_sentences(judge: JudgeResult) -> Iterable[str]:
    if judge.mode:
        yield f"Judge {judge.name}: {judge.mode}."
    if judge.defused:
        yield (
            f"{count(judge.defused, 'answer')} held control tokens of a chat template, which were broken up before the"
            " judge read them."
        )
    if judge.tokens_estimated:
        real = "the endpoint gave no counts"
        if judge.tokens_prompt is not None and judge.tokens_completion is not None:
            real = f"the endpoint counted {judge.tokens_prompt} read and {judge.tokens_completion} written"
        yield (
            f"{judge.sent} requests sent in the last run, {judge.cached} replies from the cache; about"
            f" {judge.tokens_estimated} tokens were estimated, {real}."
        )


def _kinds(failures: dict[str, int]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in failures.items()) or "none"
