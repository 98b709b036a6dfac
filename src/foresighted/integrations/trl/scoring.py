"""Rewards and gradient products of a call's groups, each process computing its share of them."""

from __future__ import annotations

import torch
from torch import Tensor

from foresighted.alignment.foresight import Foresight, Scores
from foresighted.integrations.trl.processes import Processes
from foresighted.labels.pair import Groups
from foresighted.models.reward_model import RewardModel
from foresighted.steering import Products


def score(groups: Groups, foresight: Foresight, reward_model: RewardModel, together: Processes, chunk: int) -> Scores:
    """Return the scores of all groups, on every process.

    Whole groups are shared out, so a group that straddles processes is read by one of them. Head inputs of all
    responses are exchanged where products come from them; products across groups in larger scopes are computed by every
    process.

    Args:
        groups: of all processes.
        foresight: of this process.
        reward_model: its reward model.
        together: the processes that hold a replica.
        chunk: most responses in a pass.

    Raises:
        NumericalError: a reward or product that is not finite.
    """
    whole = foresight.whole_batch and not foresight.from_features
    count, size = len(groups.prompts), len(groups.candidates[0])
    references = 0 if groups.references is None else len(groups.references[0])
    mine = range(count) if whole else together.share(count)
    prompts, texts = groups.rows(mine)
    if foresight.from_features:
        per = size + references

        def features() -> Tensor:
            if not texts:
                return torch.zeros(0, per, reward_model.head.in_features, device=reward_model.device)
            return reward_model.features(prompts, texts, chunk=chunk).view(len(mine), per, -1)

        every = together.concatenate(together.attempt(features), count)
        return foresight.score_features(every.flatten(0, 1), groups=count)
    if whole:
        return foresight.score(prompts, texts, groups=count)

    widths = [size, 1 if references else size, size, size, references if references > 1 else 0]

    def columns() -> Tensor:
        if not texts:
            return torch.zeros(0, sum(widths), device=reward_model.device)
        own = foresight.score(prompts, texts, groups=len(mine))
        several = [] if own.references is None else [own.references]
        return torch.cat([own.reward, own.reference_reward, *own.products, *several], 1)

    joined = together.concatenate(together.attempt(columns), count)
    reward, reference, gram, spread, several = torch.split(joined, widths, 1)
    return Scores(reward, reference, Products(gram, spread), references=several if references > 1 else None)
