"""Rewards and gradient products of a call's groups, each process computing its share of them."""

from __future__ import annotations

import torch
from torch import Tensor

from foresighted.alignment.foresight import Foresight, Scores
from foresighted.integrations.trl.groups import Batch
from foresighted.integrations.trl.processes import Processes
from foresighted.models.reward_model import RewardModel
from foresighted.steering import Products
from foresighted.types import Text


def score(
    batch: Batch,
    rows: list[list[int]],
    foresight: Foresight,
    reward_model: RewardModel,
    together: Processes,
    chunk: int,
) -> Scores:
    """Return the scores of all groups, on every process.

    Whole groups are shared out, so a group that straddles processes is read by one of them. Head inputs of all
    responses are exchanged where products come from them; products across groups in larger scopes are computed by every
    process.

    Args:
        batch: rows of all processes.
        rows: of each group.
        foresight: of this process.
        reward_model: its reward model.
        together: the processes that hold a replica.
        chunk: most responses in a pass.

    Raises:
        NumericalError: a reward or product that is not finite.
    """
    whole = foresight.whole_batch and not foresight.from_features
    mine = range(len(rows)) if whole else together.share(len(rows))
    prompts, texts = _layout(batch, [rows[g] for g in mine])
    size = len(rows[0])
    if foresight.from_features:
        per = size + (batch.references is not None)

        def features() -> Tensor:
            if not texts:
                return torch.zeros(0, per, reward_model.head.in_features, device=reward_model.device)
            return reward_model.features(prompts, texts, chunk=chunk).view(len(mine), per, -1)

        every = together.concatenate(together.attempt(features), len(rows))
        return foresight.score_features(every.flatten(0, 1), groups=len(rows))
    if whole:
        return foresight.score(prompts, texts, groups=len(rows))

    width = 1 if batch.references is not None else size

    def columns() -> Tensor:
        if not texts:
            return torch.zeros(0, 3 * size + width, device=reward_model.device)
        own = foresight.score(prompts, texts, groups=len(mine))
        return torch.cat([own.reward, own.reference_reward, *own.products], 1)

    joined = together.concatenate(together.attempt(columns), len(rows))
    reward, reference, gram, spread = torch.split(joined, [size, width, size, size], 1)
    return Scores(reward, reference, Products(gram, spread))


def _layout(batch: Batch, rows: list[list[int]]) -> tuple[list[Text], list[Text]]:
    """Return prompt and text of every response, a group's reference last."""
    prompts: list[Text] = []
    texts: list[Text] = []
    for group in rows:
        prompts += [batch.prompts[i] for i in group]
        texts += [batch.responses[i] for i in group]
        if batch.references is not None:
            prompts.append(batch.prompts[group[0]])
            texts.append(batch.references[group[0]])
    return prompts, texts
