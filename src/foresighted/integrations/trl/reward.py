"""FPOReward: the reward function and the callback that bring foresight into an unchanged TRL trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import TrainerCallback

from foresighted.alignment.foresight import Foresight, Penalty
from foresighted.alignment.probed import loaded
from foresighted.alignment.rows import Evaluated, Round
from foresighted.alignment.worth import distance_cost
from foresighted.errors import ConfigError, RunError
from foresighted.influence.passes import ROWS
from foresighted.integrations.trl import checkpoint
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.follower import Replica
from foresighted.integrations.trl.groups import Batch, by_row, column, gather, groups
from foresighted.integrations.trl.journal import Journal, metrics
from foresighted.integrations.trl.panel import Panel
from foresighted.integrations.trl.processes import Processes, told
from foresighted.integrations.trl.references import FrozenPolicy, settle
from foresighted.integrations.trl.scoring import score
from foresighted.labels.pair import Pair, best_places, every_place
from foresighted.labels.queue import LabelQueue, as_queue
from foresighted.prompts import prompt_id
from foresighted.settings import check_labels
from foresighted.steering import Reference
from foresighted.store.directory import explained
from foresighted.texts import text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)


class FPOReward(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """A reward model with foresight for TRL: `reward_funcs=fpo` and `callbacks=[fpo]` of an unchanged trainer.

    As reward function it returns r(x, y) - penalty - beta log(pi / pi_ref) for every response, has pairs of each group
    labelled and retrains the reward model every K calls. As callback it saves, restores and logs. Evaluation gets the
    bare reward; it fills no buffer and trains nothing.

    Args:
        reward_model: a sequence classifier with one label, or the folder or hub id of one.
        args: how to steer and to learn.
        labels: who prefers what: a `types.Labeller`, an async function of the same arguments, a `LabelQueue`, or the
            folder of one (`"people/"`). With a `utility` records also hold it. None: the reward model stays as it is.
        tokenizer: the reward model's; None loads the one that belongs to it.
        name: in logs, records and checkpoints; two objects in one trainer need two names.
        reference_policy: the frozen initial policy, which references and KL are read from where the trained one has no
            adapter.
        resume_from: the trainer's checkpoint that training goes on from, where it is not in the trainer's output_dir.

    Raises:
        ConfigError: a form whose labels nobody gives.
        ModelError: a reward model that is none.

    Example:
        >>> fpo = FPOReward(reward_model, args=FPOConfig(steering="proximal", gamma=1.0), labels=judge)
        >>> trainer = GRPOTrainer(model=policy, reward_funcs=fpo, callbacks=[fpo], train_dataset=dataset)

    References:
        arXiv 2605.04266; the leave-one-out reference of a group is ours (docs/steering.md).
    """

    def __init__(
        self, reward_model: Any, args: FPOConfig | None = None, labels: Any = None, *, tokenizer: Any = None,
        name: str = "fpo", reference_policy: Any = None, resume_from: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip  # one argument a line says no more
        self.__name__ = name  # what TRL calls it in its logs
        if not isinstance(args, FPOConfig | None):
            raise ConfigError(f"args: got {type(args).__name__}, expected FPOConfig; labellers go to labels=")
        self._asked = args or FPOConfig()
        self.config = self._asked.resolved()
        """Settings; once training begins, those that it goes by."""
        self._labels = as_queue(labels)
        check_labels(self.config, labels is not None, isinstance(self._labels, LabelQueue))
        here = self.config.placement == "every-rank" or os.environ.get("RANK", "0") == "0"
        self._reward_model = loaded(reward_model, tokenizer, self.config) if here else None
        self._reference_policy = reference_policy
        self._resume_from = None if resume_from is None else Path(resume_from)
        self._frozen: FrozenPolicy | None = None
        self._model: Any = None
        self._size: int | None = None
        self._journal: Journal | None = None
        self._answers: list[Evaluated] = []
        self._evaluated: set[int] = set()
        self._unsent: dict[str, list[float]] = {}
        self._warned = False
        self._meet(torch.device("cpu"))

    _begun: ClassVar[WeakKeyDictionary[Any, dict[str, float]]] = WeakKeyDictionary()
    """Names that are taken and the KL coefficient of each, by the data loader of a training."""

    def save_reward_model(self, folder: str | os.PathLike[str]) -> None:
        """Write the reward model as it is now, with its tokenizer, as a folder that transformers loads.

        An adapter is written as an adapter, with the head, as PEFT does.
        """
        if self.follower is not None and self._together.rank == 0:
            self.follower.reward_model.body.save_pretrained(folder)
            self.follower.reward_model.tokenizer.save_pretrained(folder)

    def attach_to_every_trainer(self) -> FPOReward:
        """Make every trainer of this process call this object back: for command lines that take no callbacks.

        Example:
            >>> fpo = FPOReward("reward-model", labels=judge).attach_to_every_trainer()  # in my_rewards.py, then
            >>> # trl grpo --reward_funcs my_rewards.fpo ...
        """
        from transformers.trainer import DEFAULT_CALLBACKS

        DEFAULT_CALLBACKS.append(self)
        return self

    def _meet(self, device: torch.device) -> None:
        """Find the other processes, and put reward model and optimiser where this one works."""
        self._together = Processes(device)
        self._inner = Processes(device, alone=self.config.placement == "first-rank")
        self.follower: Replica | None = None
        """The reward model, what it learns from and its counters; None on processes that hold none."""
        self._players: tuple[Replica, Foresight, Panel] | None = None
        if self._reward_model is not None and (self._inner.count > 1 or self._together.rank == 0):
            if not hasattr(self._reward_model.body, "hf_device_map"):
                self._reward_model.body.to(device)
            self.follower = Replica(self._reward_model, self.config, self._inner)
            panel = Panel(self._labels, self.config, self.follower.buffer, self._inner)
            kind: Reference = "response" if self.config.reference in ("policy", "column") else "leave-one-out"
            count = self.config.references if self.config.reference == "policy" else 1
            foresight = Foresight(self.config, self._reward_model, self.follower.learner.optimizer, kind, count)
            self._players = self.follower, foresight, panel

    # The reward function.

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return the score of each response of this process, r(x, y) - penalty - beta log(pi / pi_ref); in evaluation
        r(x, y) alone.

        Args:
            prompts: texts or messages, one a response.
            completions: responses, as many.
            completion_ids: their tokens.
            trainer_state: the trainer's.
            log_extra: takes columns of the trainer's table of completions.
            log_metric: takes the trainer's metrics.
            columns: of the dataset.

        Raises:
            ForesightedError: input that cannot be used; no process waits for one that failed.
        """
        training = self._is_training(trainer_state)
        lengths = [len(ids) for ids in completion_ids] if completion_ids else [0] * len(prompts)
        known: tuple[Any, Any] = None, None
        if training:
            known = self._together.attempt(lambda: self._known(prompts, completions, completion_ids, columns))
        batch = gather(self._together, prompts, completions, lengths, *known)
        if training and self._frozen is not None and self.config.reference == "policy":
            batch = replace(batch, references=self._frozen.write(batch.prompts))
        said = self._everywhere(self._train if training else self._evaluate, batch)
        mine = slice(batch.mine.start, batch.mine.stop)
        reward, penalty, distance = (said[name][mine] for name in ("reward", "penalty", "distance"))
        if log_extra is not None:
            log_extra("reward_model" if self.__name__ == "fpo" else f"{self.__name__}_reward_model", reward)
            log_extra("penalty" if self.__name__ == "fpo" else f"{self.__name__}_penalty", penalty)
        for metric, value in said["metrics"].items():
            name = f"{self.__name__}/{metric}"
            if log_metric is not None:
                log_metric(name, value)
            else:
                self._unsent.setdefault(name, []).append(value)
        return [r - p - d for r, p, d in zip(reward, penalty, distance, strict=True)]

    def _is_training(self, state: Any) -> bool:
        if self._model is not None:
            return bool(self._model.training)
        if getattr(state, "max_steps", 0) > 0:
            raise ConfigError(
                "callbacks: FPOReward is not among them, so evaluation cannot be told from training and nothing is"
                " saved; pass callbacks=[fpo], or make it with .attach_to_every_trainer()"
            )
        return False

    def _known(
        self, prompts: Sequence[Text], texts: Sequence[Text], ids: Any, columns: dict[str, Any]
    ) -> tuple[Sequence[Text] | None, list[float] | None]:
        """Return what this process knows of its rows: the dataset's references, and log pi - log pi_ref."""
        references = column(self.config.reference_column, columns) if self.config.reference == "column" else None
        if self._frozen is None or not self.config.kl_coefficient:
            return references, None
        return references, self._frozen.log_ratio(prompts, texts, ids)

    def _everywhere(self, work: Callable[..., dict[str, Any]], batch: Batch) -> dict[str, Any]:
        """Return what the processes that hold the reward model make of a call, on all of them."""
        said: dict[str, Any] = {}
        if self._players is not None and self.config.placement == "every-rank":
            return work(*self._players, batch)
        if self._players is not None:
            try:
                said = work(*self._players, batch)
            except Exception as error:  # told to all, so that nobody waits
                said = {"error": told(error)}
        said = self._together.broadcast(said)
        if "error" in said:
            raise RunError(said["error"])
        return said

    # One call, on every process that holds the reward model. Nothing below depends on which of them it is.

    def _train(self, follower: Replica, foresight: Foresight, panel: Panel, batch: Batch) -> dict[str, Any]:
        config, counts = self.config, follower.buffer.counts
        rows = groups(batch, self._size)
        follower.take_probe(batch.prompts, batch.responses)
        texts = batch.texts(rows)
        before = follower.reward_model.reader.cut
        scores = score(texts, foresight, follower.reward_model, self._inner, config.influence_chunk or ROWS)
        cut = self._inner.gather(follower.reward_model.reader.cut - before)  # what each process read: its share, or all
        counts.rounds += 1

        # Forms that read labels have them before the penalty; for the others the score decides who is labelled.
        referenced = texts.references is not None
        features = scores.features if follower.reward_model.head_only else None
        pairs: list[Pair] = []
        failed = 0
        if config.every_pair:
            places = every_place(*scores.reward.shape, with_reference=referenced)
            pairs = texts.pairs(counts.rounds, places, features)
            failed = panel.ask(pairs)
        label = follower.steering_label(config, pairs, scores.reward)
        none = Penalty(torch.zeros_like(scores.reward), 0.0, None)  # the round's labels were not given
        penalty = none if label is None else foresight.penalty(scores, label)
        total, kl, distance = scores.reward - penalty.value, None, torch.zeros_like(scores.reward)
        if batch.kl is not None:
            kl = torch.tensor([[batch.kl[i] for i in row] for row in rows], device=total.device)
            distance = distance_cost(config, kl, scores.reward)
            total = total - distance
        if not config.every_pair:
            pairs = texts.pairs(counts.rounds, best_places(total, with_reference=referenced), features)
            failed = panel.ask(pairs)

        loss = None
        if counts.rounds % config.update_every == 0:
            panel.collect()
            loss = follower.update()
        played = Round(
            number=counts.rounds, prompts=[(prompt_id(p), text_of(p)) for p in texts.prompts],
            texts=[text_of(text) for own in texts.candidates for text in own],
            tokens=[batch.tokens[i] for row in rows for i in row], scores=scores, penalty=penalty, kl=kl, score=total,
            chosen=[g * total.shape[1] + n for g, n in enumerate(total.argmax(-1).tolist())],
            pairs=pairs, counts=counts, labels_failed=failed, reward_model_loss=loss,
            prompts_cut=max(cut) if foresight.whole_batch and not foresight.from_features else sum(cut),
            reward_model_drift=None if loss is None else follower.drift(),
        )  # fmt: skip
        self._inner.attempt(lambda: self._journal.add_round(played) if self._journal is not None else None)
        flat = {"reward": scores.reward, "penalty": penalty.value, "distance": distance}
        return by_row(rows, flat) | {"metrics": metrics(played)}

    def _evaluate(self, follower: Replica, _: Foresight, panel: Panel, batch: Batch) -> dict[str, Any]:
        mine = self._inner.share(len(batch.prompts))

        def rewards() -> Tensor:
            own = slice(mine.start, mine.stop)
            return torch.tensor(follower.rewards(batch.prompts[own], batch.responses[own]) if mine else [])

        found = self._inner.concatenate(self._inner.attempt(rewards), len(batch.prompts)).tolist()
        known = panel.utilities(batch.prompts, batch.responses)
        columns = zip(batch.prompts, batch.responses, batch.tokens, found, known, strict=True)
        self._answers += [Evaluated(*row) for row in columns]
        none = [0.0] * len(found)
        return {"reward": found, "penalty": none, "distance": none, "metrics": {}}

    # The callback.

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Meet the other processes; begin the records, or bring back the state of the trainer's checkpoint."""
        taken = self._claim_name(kwargs.get("train_dataloader"))
        self._model = kwargs["model"]
        self._size = getattr(args, "num_generations", None)
        self._together = Processes(args.device)
        begins = state.global_step == 0
        found = None if begins else self._together.attempt(lambda: self._found(args, state))
        saved = self._together.broadcast(found and found[1] and found[1].told)
        players = self._model, kwargs["processing_class"], self._reference_policy
        other = next((name for name, kl in taken.items() if kl), "")
        self.config, self._frozen = settle(self._asked, args, *players, saved, self._together, other)
        taken[self.__name__] = self.config.kl_coefficient
        self._meet(args.device)
        folder = None if self.config.records is None else Path(args.output_dir) / self._folder(self.config.records)
        self._journal = Journal(folder) if folder is not None and self._together.rank == 0 else None
        self._together.attempt(lambda: self._begin(args) if found is None else self._go_on(args, state, *found))
        if self.follower is not None:
            every = dict(self.follower.reward_model.body.named_parameters())
            self._inner.check_equal(every, "reward model", "loading")

    def _claim_name(self, loader: Any) -> dict[str, float]:
        taken = {} if loader is None else self._begun.setdefault(loader, {})
        if self.__name__ in taken:
            raise ConfigError(
                f"name: two FPOReward objects of one trainer are called {self.__name__!r}; give one another name="
            )
        taken[self.__name__] = 0.0
        return taken

    def _folder(self, name: str) -> str:
        return name if self.__name__ == "fpo" else f"{name}-{self.__name__}"

    def _found(self, args: Any, state: Any) -> tuple[Path, checkpoint.State | None]:
        """Return the folder of ours in the trainer's checkpoint, and what it holds where this process needs it."""
        output, log = Path(args.output_dir), list(state.log_history)
        folder = checkpoint.of_step(state.global_step, output, self._resume_from, log) / self._folder("foresighted")
        return folder, None if self._reward_model is None else checkpoint.read_state(folder)

    def _begin(self, args: Any) -> None:
        if self._resume_from is not None:
            raise RunError(
                f"resume_from: got {self._resume_from}, but the trainer begins anew; give it resume_from_checkpoint,"
                " too"
            )
        if self._journal is not None:
            self._journal.start(self.config, args.device)

    def _go_on(self, args: Any, state: Any, folder: Path, saved: checkpoint.State | None) -> None:
        if self.follower is None or saved is None:
            return
        records = None if self._journal is None else self._journal.folder
        pins = checkpoint.restore(folder, saved, self.follower, records)
        if state.global_step >= state.max_steps:  # the trainer looks only after it has made a step
            raise RunError(
                f"resume_from_checkpoint: this run is finished, {state.global_step} of {state.max_steps} steps: nothing"
                " is left to train; raise max_steps or num_train_epochs to go on"
            )
        if state.epoch >= 1:
            _log.warning("resumed past the first epoch: TRL asks the prompts in another order than an unbroken run")
        if self._journal is not None and pins is None:
            self._journal.start(self.config, args.device)  # the run kept no records so far
        elif self._journal is not None and pins is not None:
            with explained(self._journal.folder):
                pins.cut_back(self._journal.folder)
            self._evaluated = self._journal.evaluated()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write reward model, optimiser, buffer and counters beside the trainer's checkpoint."""
        every = (getattr(args, "steps_per_generation", None) or 1) * (getattr(args, "num_iterations", None) or 1)
        if state.global_step * args.gradient_accumulation_steps % every and not self._warned:
            self._warned = True
            _log.warning(
                "checkpoint-%d lies between two generations: a run that goes on from it generates and labels once more",
                state.global_step,
            )
        self._together.attempt(lambda: self._save(args, state.global_step))

    def _save(self, args: Any, step: int) -> None:
        if self.follower is not None and args.should_save and self._together.rank == 0:
            folder = Path(args.output_dir) / f"checkpoint-{step}" / self._folder("foresighted")
            written = {} if self._frozen is None else self._frozen.kept
            checkpoint.save(folder, self.follower, None if self._journal is None else self._journal.folder, written)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the answers of an evaluation to the records."""
        answers, self._answers = self._answers, []
        self._together.attempt(lambda: self._record(answers))

    def _record(self, answers: list[Evaluated]) -> None:
        if self._journal is None or self.follower is None or not answers:
            return
        number = self.follower.buffer.counts.rounds
        if number not in self._evaluated:  # a second evaluation of the same round says nothing new
            self._evaluated.add(number)
            self._journal.add_evaluation(number, answers)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add our metrics to the log of trainers that give reward functions no way to."""
        if logs is None or not self._unsent:
            return
        means = {name: sum(values) / len(values) for name, values in self._unsent.items()}
        self._unsent = {}
        logs.update(means)
        if state.log_history:
            state.log_history[-1].update(means)
