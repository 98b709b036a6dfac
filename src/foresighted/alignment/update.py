"""How a round moves the policy: towards each prompt's winner, along the policy gradient of all candidates, by DPO."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from foresighted.alignment.requests import Backward, LogLikelihood, TokenLogP
from foresighted.errors import NumericalError
from foresighted.labels.pair import Pair
from foresighted.models import noise
from foresighted.models.learner import Learner
from foresighted.models.policy import Policy
from foresighted.models.rollout import Rollout
from foresighted.settings import TrainConfig
from foresighted.store.records import ReferenceRow

_log = logging.getLogger(__name__)


async def read_once(config: TrainConfig, policy: Policy, prompts: Sequence[str], candidates: Rollout) -> Tensor | None:
    """Return what the policy says of each token of each candidate, in nats, shape B N T, with the gradient.

    The update begins with this pass and needs none of its own. None where it does: best of N, several micro-batches,
    or a model that reads in training otherwise than when it is only asked.

    Args:
        config: which update, in how many micro-batches.
        policy: the policy.
        prompts: B texts.
        candidates: B N responses.
    """
    if config.policy_update == "best-of-n" or config.accumulation_steps > 1 or policy.trains_apart:
        return None
    return await TokenLogP(prompt_of_each(prompts, candidates), candidates)


def prompt_of_each(prompts: Sequence[str], candidates: Rollout) -> list[str]:
    """Return the prompt of each candidate."""
    return [prompt for prompt in prompts for _ in range(len(candidates.texts) // len(prompts))]


async def update_policy(
    config: TrainConfig, learner: Learner, number: int, prompts: Sequence[str], candidates: Rollout,
    score: Tensor, chosen: Sequence[int], log_p: Tensor | None = None,
) -> float | None:  # fmt: skip  # one argument a line says no more
    """Take the policy's steps of round `number`; return the loss before them, None where there was nothing to learn.

    Args:
        config: which update, and how many steps.
        learner: of the policy's trainable parameters, which are changed.
        number: of the round.
        prompts: B texts.
        candidates: B N responses.
        score: reward - penalty - what nearness to the reference costs, shape B N.
        chosen: flat index of each prompt's winner.
        log_p: what `read_once` said, where it was asked.

    Raises:
        NumericalError: a score, a loss or a gradient that is not finite; no step is taken on it.
    """
    _seed_dropout(config, number)
    if config.policy_update == "best-of-n":
        return await _towards_winners(config, learner, prompts, candidates.rows(chosen))
    return await _along_gradient(config, learner, number, prompts, candidates, score, log_p)


async def update_directly(
    config: TrainConfig, policy: Policy, learner: Learner, number: int, pairs: Sequence[Pair], candidates: Rollout,
    references: Sequence[ReferenceRow],
) -> float:  # fmt: skip  # one argument a line says no more
    """Take the policy's steps of round `number` on its labelled pairs, by online DPO; return the loss before them.

    No reward model has a part in it. A reference response, of which the text was kept, is read with the end-of-sequence
    token that it ended with, as the candidates are.

    Args:
        config: beta, and how many steps.
        policy: the policy.
        learner: of its trainable parameters, which are changed.
        number: of the round.
        pairs: candidates against the first reference of their prompts, labelled.
        candidates: B N responses.
        references: that first reference of each prompt, B.

    Raises:
        NumericalError: a loss or a gradient that is not finite; no step is taken on it.

    References:
        DPO, arXiv 2305.18290; on the policy's own responses, arXiv 2402.04792.
    """
    _seed_dropout(config, number)
    known = [(pair.place, pair.label) for pair in pairs if pair.place is not None and pair.label is not None]
    group, size = [place.group for place, _ in known], len(candidates.texts) // len(references)
    label = torch.tensor([label for _, label in known], device=candidates.tokens.device)
    own = candidates.rows([place.group * size + place.first for place, _ in known])
    prompts, most = [reference.prompt for reference in references], policy.decoding.max_new_tokens
    other = policy.encode_responses([r.text for r in references], ended=[r.tokens < most for r in references])
    own_frozen = await LogLikelihood([prompts[g] for g in group], own, frozen=True)
    other_frozen = await LogLikelihood(prompts, other, frozen=True)

    async def loss(index: list[int]) -> Tensor:
        groups = [group[i] for i in index]
        once = list(dict.fromkeys(groups))  # a reference is read once for all candidates of its prompt
        now = await TokenLogP([prompts[g] for g in groups], own.rows(index))
        against = await TokenLogP([prompts[g] for g in once], other.rows(once))
        ratio = against.sum(-1) - other_frozen[once]
        margin = now.sum(-1) - own_frozen[index] - ratio[[once.index(g) for g in groups]]
        return direct_loss(margin, label[index], config.dpo_beta)

    return await learner.learning(len(known), loss, _backward, steps=config.policy_steps)


def direct_loss(margin: Tensor, label: Tensor, beta: float) -> Tensor:
    """Return the mean over pairs of the cross-entropy of sigma(beta margin) against their labels.

        loss = -mean of  p log sigma(beta m) + (1 - p) log sigma(-beta m),    m = log pi/pi_ref (y) - log pi/pi_ref (y')

    DPO with the label as it is, soft or a bit: where it is 1, this is the published loss. It is least where beta m is
    the label's log-odds; of labels sigma(U(y) - U(y')), that is the policy pi ~ pi_ref exp(U / beta).

    Args:
        margin: m of each pair, in nats, shape R.
        label: preference p for y over y', in [0, 1], shape R.
        beta: log-odds of a label a nat.
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(beta * margin, label.to(margin.dtype))


def _seed_dropout(config: TrainConfig, number: int) -> None:
    torch.manual_seed(noise.key(config.seed, "dropout", number) % 2**63)


async def _backward(loss: Tensor) -> None:
    await Backward(loss)


def loss_of(log_p: Tensor, responses: Rollout) -> Tensor:
    """Return the mean over rows of -mean token log-likelihood, response tokens only, in nats a token."""
    return -(log_p.sum(-1) / responses.mask.sum(-1)).mean()


async def _towards_winners(config: TrainConfig, learner: Learner, prompts: Sequence[str], winners: Rollout) -> float:
    async def loss(index: list[int]) -> Tensor:
        own = winners.rows(index)
        return loss_of(await TokenLogP([prompts[i] for i in index], own, share=False), own)

    return await learner.learning(len(prompts), loss, _backward, steps=config.policy_steps)


def advantages(score: Tensor) -> tuple[Tensor, float]:
    """Return what each candidate is better by than its prompt's others, in units of the round's spread, and that.

        A_bn = (s_bn - mean_{m != n} s_bm) / s,    s^2 = mean over b of the unbiased variance of s_bn over n

    One scale for the round: a prompt whose candidates hardly differ does not weigh as much as one whose do.

    Args:
        score: shape B N, N at least 2.

    Returns:
        Advantages, shape B N, zeros where the spread is 0; the spread s, in units of the score.

    References:
        RLOO, arXiv 2402.14740; the common scale is ours.
    """
    count = score.shape[1]
    apart = (score - score.mean(1, keepdim=True)) * (count / (count - 1))
    spread = float(score.double().var(1).mean().sqrt())
    return (apart / spread if spread > 0 else torch.zeros_like(score)), spread


async def _along_gradient(
    config: TrainConfig, learner: Learner, number: int, prompts: Sequence[str], candidates: Rollout,
    score: Tensor, log_p: Tensor | None,
) -> float | None:  # fmt: skip  # one argument a line says no more
    if not bool(score.isfinite().all()):
        raise NumericalError(f"round {number}: a score is not finite; lower policy_learning_rate")
    advantage, spread = advantages(score)
    if not spread > 0:
        _log.warning("round %d: all candidates of each prompt score alike: the policy takes no step", number)
        return None
    weight = advantage.flatten()[:, None].to(score.dtype)
    every = prompt_of_each(prompts, candidates)
    length = sum(candidates.lengths()) / len(every)  # one constant: a long answer's tokens count like a short one's
    if config.policy_steps > 1 and log_p is None:
        log_p = await TokenLogP(every, candidates, gradient=False)
    before = None if log_p is None or config.policy_steps == 1 else log_p.detach()
    passes = [log_p] if log_p is not None and log_p.requires_grad else []  # serves the first step

    async def loss(index: list[int]) -> Tensor:
        asked = TokenLogP([every[i] for i in index], candidates.rows(index))
        now = passes.pop() if passes else await asked
        own = weight[index]
        if before is None:
            return -(own * now).sum(-1).mean() / length
        ratio = (now - before[index]).exp()
        near = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
        gain = torch.minimum(ratio * own, near * own) * candidates.mask[index]
        return -gain.sum(-1).mean() / length

    return await learner.learning(len(every), loss, _backward, steps=config.policy_steps)
