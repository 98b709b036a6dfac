"""Candidates per second of our round against the published order of work, same models, same machine, in one run.

The published order (github.com/GauthierE/fpo, described in its paper's appendix): for each prompt one reference is
sampled from the frozen policy, then each candidate is sampled, scored by the oracle and scored by the reward model on
its own, with transformers' own sampling; then the reward model and the policy are updated, prompt by prompt, the
gradients accumulated. Both sides read a label of every candidate (`relaxed`), write as many tokens and take one
optimiser step on each model a round; ours also pays for its share of the block of references.

A policy gradient (the preset `demo`) is measured against its plain order: each candidate reads its prompt anew,
and the frozen pass and the policy's pass with gradients go over whole sequences. What is labelled is the same on both
sides, and no references are written on either.

    python benchmarks/round_speed.py [--rounds 2] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from foresighted.alignment import start
from foresighted.alignment.given import NAMES_ONLY
from foresighted.alignment.players import fit, players
from foresighted.alignment.round import Loop, play_round
from foresighted.alignment.together import Alone, play
from foresighted.alignment.update import advantages, loss_of
from foresighted.models import noise
from foresighted.prompts import load_prompts
from foresighted.settings import TrainConfig, from_mapping, preset, read_yaml
from foresighted.steering.pairwise import relaxed
from foresighted.store import environment


def published_round(loop: Loop, number: int) -> int:
    """Play one round in the published order; return the number of candidates."""
    policy, reward_model, config = loop.policy, loop.follower.reward_model, loop.config
    prompts = [own[0].prompt for own in loop.start.references(number)]
    for prompt in prompts:
        with policy.frozen() as frozen:
            reference = sample_one(policy, frozen, prompt)
        reference_utility = oracle(loop, prompt, reference)
        reference_features = reward_model.features([prompt], [reference])
        best, best_score, best_label = "", -float("inf"), torch.tensor(0.5)
        for _ in range(config.candidates):
            candidate = sample_one(policy, policy.model, prompt)
            label = torch.sigmoid(torch.tensor(oracle(loop, prompt, candidate) - reference_utility))
            features = reward_model.features([prompt], [candidate])
            reward = reward_model.rewards(features)
            margin = reward - reward_model.rewards(reference_features)
            gram = (features * (features - reference_features)).sum(-1)
            score = float((reward - relaxed(gram, margin, label, gamma=config.weight)).detach())
            if score > best_score:
                best, best_score, best_label = candidate, score, label
        labels = best_label[None]
        (reward_model.loss([prompt], [best], [reference], labels) / len(prompts)).backward()
        said = policy.encode_responses([best])
        (loss_of(policy.token_log_p([prompt], said, share=False), said) / len(prompts)).backward()
    for learner in (loop.follower.learner, loop.policy_learner):
        learner.optimizer.step()
        learner.optimizer.zero_grad()
    return len(prompts) * config.candidates


def plain_gradient_round(loop: Loop, number: int) -> int:
    """Play one round of a policy gradient in the plain order; return the number of candidates."""
    policy, config = loop.policy, loop.config
    references = [own[0] for own in loop.start.references(number)]
    each = range(config.candidates)
    every = [r.prompt for r in references for _ in each]
    keys = [noise.key(config.seed, "candidate", r.round, r.prompt_id, n) for r in references for n in each]
    trunk, policy._trunk = policy._trunk, None
    try:
        rollout = policy.sample([r.prompt for r in references], config.candidates, keys, read_once=False)
        groups = [*rollout.texts]
        for place, reference in reversed(list(enumerate(references))):
            groups.insert((place + 1) * config.candidates, reference.text)
        prompts = [r.prompt for r in references for _ in range(config.candidates + 1)]
        scores = loop.foresight.score(prompts, groups, groups=len(references))
        penalty = loop.foresight.penalty(scores, loop.follower.steering_label(config, [], scores.reward))
        with torch.no_grad():
            own = policy._token_log_p(policy.model, every, rollout, share=False).sum(-1)
            with policy.frozen() as model:
                ratio = own - policy._token_log_p(model, every, rollout, share=False).sum(-1)
        score = scores.reward - penalty.value - config.kl_coefficient * ratio.view_as(scores.reward)
        asked = [places[0] for places in zip(*[iter(range(len(every)))] * config.candidates, strict=True)]
        loop.labels.utility([every[i] for i in asked], [rollout.texts[i] for i in asked])
        advantage = advantages(score)[0].flatten()
        log_p = policy._token_log_p(policy.model, every, rollout, share=False).sum(-1)
        (-(advantage * log_p).mean()).backward()
    finally:
        policy._trunk = trunk
    loop.policy_learner.optimizer.step()
    loop.policy_learner.optimizer.zero_grad()
    return len(every)


def sample_one(policy, model, prompt: str) -> str:
    """Sample one response by transformers' own sampling, a batch of one."""
    prefix = policy._encode([prompt])
    decoding = policy.decoding
    output = model.generate(
        input_ids=prefix.tokens, attention_mask=prefix.mask, do_sample=True, top_k=0, top_p=decoding.top_p,
        temperature=decoding.temperature, max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.max_new_tokens,
        pad_token_id=policy.tokenizer.pad_token_id,
    )  # fmt: skip
    return policy._cut(output[:, prefix.tokens.shape[1] :]).texts[0] or "."


def oracle(loop: Loop, prompt: str, response: str) -> float:
    """Return the utility of one response."""
    return loop.labels.utility([prompt], [response])[0] or 0.0


def our_round(loop: Loop, number: int) -> int:
    """Play one of our rounds, its references made in it: a share of a block."""
    return len(play({0: play_round(loop, number)}, Alone(loop))[0][0])


def timed(play, loop: Loop, rounds: range) -> dict[str, float]:
    """Return the median over rounds of seconds and candidates per second."""
    seconds, count = [], 0
    for number in rounds:
        began = time.perf_counter()
        count = play(loop, number)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return {"seconds_a_round": round(median, 3), "candidates_per_second": round(count / median, 3)}


def measure(config: TrainConfig, rounds: int) -> dict[str, object]:
    """Measure one setting; the seconds of the reference block are spread over the rounds that it serves."""
    gradient = config.policy_update == "policy-gradient"
    prompts = load_prompts(config.prompts)
    with tempfile.TemporaryDirectory() as folder:
        loop = players(config, NAMES_ONLY, prompts.train, Path(folder))
        fit(loop)
        began = time.perf_counter()
        loop.start.references(2 + 2 * rounds)
        served = max(1, start.BLOCK_ROWS // (config.prompts_per_round * config.references))
        blocks = -(-(2 + 2 * rounds) // served)
        block = 0.0 if gradient else (time.perf_counter() - began) / (blocks * served)
        our_round(loop, 1)  # warm up
        ours = timed(our_round, loop, range(2, 2 + rounds))
        plain = timed(plain_gradient_round if gradient else published_round, loop, range(2, 2 + rounds))
    total = ours["seconds_a_round"] + block
    count = config.prompts_per_round * config.candidates
    ours |= {"reference_seconds_a_round": round(block, 3), "candidates_per_second": round(count / total, 3)}
    ratio = ours["candidates_per_second"] / plain["candidates_per_second"]
    shape = {"prompts": config.prompts_per_round, "candidates": config.candidates, "tokens": config.max_new_tokens}
    against = "plain_order" if gradient else "published_order"
    return shape | {"policy_update": config.policy_update, "ours": ours, against: plain, "ratio": round(ratio, 2)}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    changes = {"steering": "relaxed", "gamma": 1.0, "threads": args.threads}
    history = read_yaml(Path(__file__).parents[1] / "examples" / "best_of_n.yaml")
    known = {name: value for name, value in history.items() if name not in ("arms", "seeds")}
    base = from_mapping(TrainConfig, known | changes)
    base = replace(base, min_new_tokens=base.max_new_tokens)  # both sides write the same number of tokens
    own = from_mapping(TrainConfig, preset("demo", TrainConfig) | {"threads": args.threads, "references": 1})
    own = replace(own, min_new_tokens=own.max_new_tokens)
    shapes = [base, replace(base, candidates=8), own]
    result = {
        "processor": environment.processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": args.threads,
        "rounds": args.rounds,
        "settings": [measure(config, args.rounds) for config in shapes],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
