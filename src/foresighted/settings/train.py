"""Settings of one run of the loop."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from foresighted.errors import ConfigError
from foresighted.inputs import shown
from foresighted.settings.fields import setting, settings
from foresighted.settings.pay import rules_of_pay, without_effect
from foresighted.settings.steering import SteeringConfig

LAYERS = re.compile(r"all|last:[1-9]\d{0,5}")
"""How the blocks that get an adapter are written."""
FEWEST = 10
"""Pairs below which `reward_model_steps auto` takes one step: a tenth of fewer is none."""
MAY_CHANGE_ON_RESUME = ("rounds", "checkpoint_every", "keep_checkpoints", "report_to", "wait_for_labels")
"""Settings that do not touch what a round computes (but for when labels of people come), so a resumed run may change
them."""


@dataclass(frozen=True)
class TrainConfig(SteeringConfig):
    """One run of iterative RLHF on a language model. Defaults suit the embedded models on two CPU cores."""

    earlier: ClassVar = {
        "policy_update": "best-of-n", "clip_range": 0.2, "lora_layers": "all", "references": 1, "kl_coefficient": 0.0,
        "kl_unit": "raw", "gamma_unit": "raw", "control": "none", "reward_model_pairs": "winner",
        "reward_model_steps": 1, "reward_model_buffer": 0, "reward_model_l2": 0.0, "reward_model_max_length": None,
        "initial_preferences": None, "ensemble": 1, "confidence": 0.0, "shaping": "none", "shaping_scale": 1.0,
        "correction": 0.0,
    }  # fmt: skip  # one table

    seed: int = setting(0, "run", "seed of prompt order, sampling noise, initial weights and sampled labels", low=0)
    rounds: int = setting(30, "run", "rounds of write, label, retrain, optimise", low=1)
    prompts: str = setting(
        "bundled",
        "run",
        "'bundled', a file of JSON lines, a JSON array, CSV or Parquet (key 'prompt', 'messages' or another usual name;"
        " optional 'id', 'kind', 'split'), a .txt file with one a line, 'truthfulqa', or"
        " hub:DATASET[@CONFIGURATION]:SPLIT:COLUMN",
    )
    prompt_limit: int | None = setting(None, "run", "use only the first K training prompts of the file", low=1)
    prompts_per_round: int = setting(4, "run", "B, prompts answered in a round", low=1)
    device: str = setting("auto", "run", "'auto' (what Accelerate finds), 'cpu', 'cuda', 'cuda:1', 'mps'")
    threads: int | None = setting(
        None,
        "run",
        "CPU threads of torch; sums depend on it in the last bit (default: all in train, 1 in compare)",
        low=1,
        high=1024,
    )
    checkpoint_every: int = setting(1, "run", "rounds between checkpoints", low=1)
    keep_checkpoints: int = setting(2, "run", "newest checkpoints kept on disk", low=1)
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = setting(
        "none", "run", "Accelerate tracker that also gets the round's numbers"
    )

    policy: str = setting(
        "embedded",
        "policy",
        "causal LM: 'embedded' (SmolLM2-135M-Instruct), a folder or a hub id, of a model or of an adapter on one",
    )
    policy_train: Literal["lora", "all"] = setting(
        "lora", "policy", "train a LoRA adapter, or all weights (needs a frozen second copy as reference)"
    )
    lora_rank: int = setting(16, "policy", "rank of every LoRA adapter", low=1)
    lora_alpha: int = setting(32, "policy", "LoRA scale is alpha / rank", low=1)
    lora_dropout: float = setting(0.0, "policy", "dropout on the adapter's input while training", low=0, below=1)
    lora_targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"), "policy", "modules that get an adapter, or 'all-linear'"
    )
    lora_layers: str = setting("all", "policy", "blocks that get an adapter: all, or last:K")
    quantization: Literal["none", "8bit", "4bit"] = setting(
        "none", "policy", "load the frozen base in 8 bit or 4 bit (NF4) through bitsandbytes"
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = setting(
        "float32",
        "policy",
        "precision of loaded weights; auto: float32 or bfloat16, whichever a measurement of a second at the start finds"
        " faster",
    )
    policy_learning_rate: float = setting(5e-4, "policy", "AdamW learning rate of the policy", above=0)
    policy_update: Literal["best-of-n", "policy-gradient", "dpo"] = setting(
        "policy-gradient",
        "policy",
        "raise the likelihood of all candidates by their advantage over the prompt's others (RLOO), of each prompt's"
        " winner (the paper), or of what the round's labels prefer, without a reward model (online DPO)",
    )
    dpo_beta: float = setting(
        0.1,
        "policy",
        "of dpo, which has it in place of kl_coefficient: log-odds of a label that a nat of distance from the frozen"
        " policy is worth",
        above=0,
    )
    policy_steps: int = setting(1, "policy", "optimiser steps of the policy a round", low=1)
    clip_range: float = setting(
        0.2,
        "policy",
        "of a policy gradient with several steps: how far a token's probability ratio counts",
        above=0,
        below=1,
    )
    accumulation_steps: int = setting(1, "policy", "micro-batches a step, for policy and reward model", low=1)
    max_grad_norm: float = setting(
        1.0, "policy", "gradient norm above which the policy's gradient is scaled down", above=0
    )
    optimizer: Literal["adamw", "paged_adamw_8bit"] = setting(
        "adamw", "policy", "paged_adamw_8bit comes from bitsandbytes"
    )
    policy_reset_every: int = setting(
        0,
        "policy",
        "rounds after which the policy begins anew, while the reward model and all labels stay; 0: never",
        low=0,
    )
    rollback_window: int = setting(
        0,
        "policy",
        "rounds whose labels together say how good the policy is: where it has fallen below its best, it goes back"
        " there; 0: never",
        low=0,
    )
    system_prompt: str | None = setting(None, "policy", "system message; default: what the chat template puts there")

    references: int = setting(
        4,
        "sampling",
        "M, responses of the frozen policy a prompt: the penalty compares with their mean, labels with the first",
        low=1,
    )
    candidates: int = setting(4, "sampling", "N, responses sampled for each prompt; best of N needs two", low=2)
    max_new_tokens: int = setting(20, "sampling", "longest response in tokens", low=1)
    min_new_tokens: int = setting(5, "sampling", "shortest response in tokens", low=1)
    temperature: float = setting(0.8, "sampling", "softmax temperature", above=0)
    top_p: float = setting(
        0.9, "sampling", "nucleus: smallest set of tokens with at least this probability", above=0, high=1
    )

    reward_model: str = setting(
        "embedded",
        "reward model",
        "'embedded' (MiniLM encoder + linear head), 'embedded:relevance' (one that begins as the similarity of prompt"
        " and response), a folder or hub id of a sequence classifier with one label (or of an adapter on one), or"
        " encoder:FOLDER for another encoder",
    )
    reward_model_input: Literal["pair", "response"] = setting(
        "pair", "reward model", "read prompt and response, or the response alone (as the published code does)"
    )
    feature_scale: float = setting(4.0, "reward model", "length of the encoder's pooled feature vector", above=0)
    reward_model_learning_rate: float = setting(
        5e-3, "reward model", "AdamW learning rate of the reward model", above=0
    )
    reward_model_pairs: Literal["winner", "random", "uncertain", "influence", "disagreement", "all"] = setting(
        "random",
        "reward model",
        "which candidates are labelled against a reference for it to learn from: each prompt's winner, one drawn at"
        " random, the one whose margin is nearest 0, the one whose label is expected to change most of what the policy"
        " is paid, the one whose margin an ensemble disputes most, or all (N labels a prompt)",
    )
    reward_model_pairs_random: float = setting(
        0.0,
        "reward model",
        "share of prompts, drawn by a coin, whose labelled candidate is drawn at random whatever reward_model_pairs"
        " says",
        low=0,
        high=1,
    )
    ensemble: int = setting(
        1,
        "reward model",
        "heads on its body that differ in their first weights and in the pairs that they learn from; its reward is"
        " their mean",
        low=1,
        high=64,
    )
    initial_pairs: int = setting(
        32, "reward model", "K labelled pairs of the reference policy to fit it on first", low=0
    )
    initial_preferences: str | None = setting(
        None,
        "reward model",
        "file of preferences (prompt, chosen, rejected; TRL's, UltraFeedback's or HH's) that those K are taken from, in"
        " the seed's order",
    )
    initial_steps: int = setting(100, "reward model", "optimiser steps of that first fit", low=0)

    labels: str = setting(
        "relevance",
        "labels",
        "'relevance' (embedded encoder + fluency), 'likelihood' (frozen policy, the paper's oracle), reward:MODEL"
        " (a gold reward model), FILE.py:NAME, a function(prompt, first, second) -> [0, 1] or a types.Labeller, or"
        " FOLDER/, where people answer in their own time (foresighted label FOLDER)",
    )
    wait_for_labels: int = setting(
        0,
        "labels",
        "of a folder: labels that a round waits for before the reward model learns, fewer where everything is answered"
        " or skipped; 0: it goes on with those that came",
        low=0,
    )

    kl_coefficient: float = setting(
        0.3,
        "steering",
        "beta: also take beta * log(pi / pi_ref) of the response, in nats, off its score, in kl_unit a nat",
        low=0,
    )
    kl_unit: Literal["raw", "share"] = setting(
        "share",
        "steering",
        "unit of beta: raw, in reward, or a share of the spread within a prompt of what is paid: rewards, or log-odds"
        " of labels",
    )
    confidence: float = setting(
        0.0, "steering", "lower confidence bound: the policy is paid mean - confidence * std of the ensemble", low=0
    )
    shaping: Literal["none", "par"] = setting(
        "none",
        "steering",
        "par: the policy is paid scale * sigmoid((r - r_ref) / scale), mean over the references",
    )
    shaping_scale: float = setting(1.0, "steering", "scale of that shaping, in units of reward", above=0)
    correction: float = setting(
        0.0,
        "steering",
        "weight w, 1 for scores without bias: the policy is paid p = sigmoid(r - r_ref), and for the labelled candidate"
        " w * (label - p) / (chance of being labelled) beside it; 0: the reward",
        low=0,
        high=1,
    )
    selection: Literal["reward", "labels"] = setting(
        "reward",
        "steering",
        "what candidates are chosen and the policy paid by: reward - penalty, or the label's log-odds (the ceiling: N"
        " labels a prompt)",
    )
    control: Literal["none", "shuffled", "penalty-alone"] = setting(
        "none",
        "steering",
        "control experiments: the penalty permuted among a round's candidates, or the penalty without the reward",
    )

    heldout_every: int = setting(5, "held-out", "rounds between held-out evaluations (also before the first)", low=1)
    heldout_prompts: int = setting(16, "held-out", "held-out prompts answered each time", low=1)
    heldout_seed: int = setting(
        0, "held-out", "seed of their sampling noise: the same in every round, arm and run", low=0
    )

    @property
    def last_blocks(self) -> int | None:
        """How many blocks of the policy get an adapter, counted from its end; None for all."""
        return None if self.lora_layers == "all" else int(self.lora_layers.removeprefix("last:"))

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings of adapters that were given though nothing gets one."""
        if self.policy_train == "lora":
            return ()
        shared = () if self.reward_model_train == "lora" else ("lora_rank", "lora_alpha")
        names = (*shared, "lora_dropout", "lora_targets")
        return tuple(name for name in names if getattr(self, name) != settings(TrainConfig)[name].default)

    @property
    def reads_all_labels(self) -> bool:
        """Whether a run reads a label of every candidate (N a prompt), or of one a prompt."""
        return self.reads_labels or self.selection == "labels" or self.reward_model_pairs == "all"

    @property
    def corrects(self) -> bool:
        """Whether what candidates are paid is corrected by labels."""
        return self.correction > 0 and self.selection == "reward" and self.control != "penalty-alone"

    @property
    def pays_reward(self) -> bool:
        """Whether candidates are paid the reward as it is, if they are paid by the reward model at all."""
        replaced = self.selection == "labels" or self.control == "penalty-alone"
        return replaced or not (self.corrects or self.confidence or self.shaping != "none")

    @property
    def reads_labels_ahead(self) -> bool:
        """Whether the label of each prompt's one labelled candidate is read before the choice."""
        return self.corrects or self.carries_label

    @property
    def labels_a_round(self) -> int:
        """Preferences that a run reads in a round."""
        return self.prompts_per_round * (self.candidates if self.reads_all_labels else 1)

    @property
    def pairs_a_round(self) -> int:
        """Pairs that the reward model gets to learn from in a round."""
        return self.prompts_per_round * (self.candidates if self.reward_model_pairs == "all" else 1)

    def resolved(self) -> Self:
        """Return the same settings with those written out that depend on others, as records keep them.

        Raises:
            ConfigError: as `SteeringConfig.resolved`; or settings that would do nothing with `policy_update` dpo.
        """
        if self.policy_update == "dpo" and (idle := list(without_effect(self))):
            raise ConfigError("; ".join(idle))
        return super().resolved()

    def _rules(self) -> Iterable[tuple[bool, str]]:
        return (
            *super()._rules(),
            (
                LAYERS.fullmatch(self.lora_layers) is not None,
                f"lora_layers: got {shown(self.lora_layers)}, expected all or last:K",
            ),
            (self.min_new_tokens <= self.max_new_tokens, "min_new_tokens: must not exceed max_new_tokens"),
            (
                self.reward_model != "embedded:relevance" or self.reward_model_input == "pair",
                "reward_model_input: embedded:relevance reads the prompt, too; use pair",
            ),
            (
                self.fit.steps != "auto" or self.fit.buffer == -1 or self.pairs_a_round + self.fit.buffer >= FEWEST,
                f"reward_model_steps: auto holds back a tenth of at least {FEWEST} pairs, and here an update never has"
                f" more than {self.pairs_a_round + self.fit.buffer}; raise reward_model_buffer, or give a number",
            ),
            (
                self.initial_preferences is None or self.initial_pairs > 0,
                "initial_preferences: without effect with initial_pairs 0; give how many are to be read",
            ),
            *rules_of_pay(self),
            (
                self.quantization == "none" or self.policy_train == "lora",
                "policy_train: a quantised policy can only be trained with lora",
            ),
            (
                self.lora_layers == "all" or self.policy_train == "lora",
                f"lora_layers: got {shown(self.lora_layers)}, but policy_train all has no adapter; use all, or"
                " policy_train lora",
            ),
            (
                not (self.rollback_window and self.policy_reset_every),
                f"rollback_window, policy_reset_every: got {self.rollback_window} and {self.policy_reset_every}, but a"
                " policy that begins anew gives up its best, too; give one of them",
            ),
            (
                self.rollback_window * self.prompts_per_round != 1,
                "rollback_window: got 1 with prompts_per_round 1, and one label says nothing of its spread; raise one"
                " of them",
            ),
        )
