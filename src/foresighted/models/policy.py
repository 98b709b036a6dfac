"""The policy: a causal language model that samples, scores and learns; its frozen reference is itself, adapter off."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList

from foresighted.errors import NumericalError, one_line
from foresighted.influence.rounding import in_full
from foresighted.models.cache import make_room
from foresighted.models.lm_head import LMHead
from foresighted.models.memory import at_once
from foresighted.models.noise import NucleusSampler
from foresighted.models.packed import Packed
from foresighted.models.rollout import Prefix, Rollout, ends_of, ids_of
from foresighted.models.stacked import Adapter, Stack, find_stack
from foresighted.models.template import PromptReader
from foresighted.models.trunk import Memory, Remembered, draws_dropout, find_trunk
from foresighted.types import Text

_log = logging.getLogger(__name__)
NOT_FINITE = "the policy gives no numbers for its next token; lower policy_learning_rate, or check its weights"


@dataclass(frozen=True)
class Decoding:
    """How responses are sampled: their length in tokens, the softmax temperature (0: greedy), the nucleus."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0


class Policy:
    """A causal LM with its tokenizer.

    Args:
        model: the language model, wrapped by PEFT when an adapter is trained.
        tokenizer: its tokenizer, with a padding token.
        reference: the frozen initial model; None: the model itself, with its adapter switched off if it has one.
        decoding: how it samples.
        system_prompt: system message of prompts that are plain text; None leaves it to the chat template.
        chat: a prompt that is plain text goes through the chat template (if there is one) as a user's message.
        setting: what it was given for; errors begin with it.
        template: what the chat template is told besides.

    Raises:
        ModelError: a chat template that refuses the system message.
    """

    def __init__(
        self, model: Any, tokenizer: Any, reference: Any | None, decoding: Decoding, *,
        system_prompt: str | None = None, chat: bool = True, setting: str = "policy",
        template: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip  # one argument a line says no more
        self.model = model
        self.tokenizer = tokenizer
        self.decoding = decoding
        self._reference = reference
        self.reader = PromptReader(
            tokenizer, model.get_input_embeddings().num_embeddings, system_prompt=system_prompt, chat=chat,
            setting=setting, template=template,
        )  # fmt: skip
        self._trunk = find_trunk(model) if reference is None else None
        self._memory = Memory()
        self._heads = {id(each): LMHead(each) for each in (model, reference) if each is not None}
        self._packed = Packed(model if reference is None else reference)
        self._tried = False
        self._experiments = 1

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def head(self) -> LMHead:
        """The last layer of the model that is trained."""
        return self._heads[id(self.model)]

    def trainable(self) -> dict[str, Tensor]:
        """Return the parameters that training changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @cached_property
    def trains_apart(self) -> bool:
        """Whether a pass in training mode is another than one in evaluation mode: dropout, gradient checkpointing."""
        return draws_dropout(self.model) or bool(getattr(self.model, "is_gradient_checkpointing", False))

    @cached_property
    def stack(self) -> Stack | None:
        """What lets several experiments share the model; None where each needs one of its own."""
        own = self._reference is None and not self.trains_apart
        return find_stack(self.model) if own else None

    @contextmanager
    def side_by_side(self, stack: Stack, adapters: Sequence[Adapter]) -> Iterator[None]:
        """Let the rows of what is asked belong to E experiments, as many to each, in the order of their adapters."""
        self._experiments = len(adapters)
        try:
            with stack.active(adapters):
                yield
        finally:
            self._experiments = 1

    @contextmanager
    def frozen(self) -> Iterator[Any]:
        """Give the frozen initial model for the time of a `with` block."""
        off = self._reference is None and hasattr(self.model, "disable_adapter")
        with self.model.disable_adapter() if off else nullcontext():
            yield self.model if self._reference is None else self._reference

    @contextmanager
    def _of(self, frozen: bool) -> Iterator[Any]:
        """Give the policy, or the frozen one, to be read without gradients."""
        with self.frozen() if frozen else nullcontext(self.model) as model, self._packed.used():
            yield model

    def _encode(self, prompts: Sequence[Text]) -> Prefix:
        return Prefix(*self._padded([self.reader.ids(p) for p in prompts], left=True))

    def encode_responses(self, texts: Sequence[str], *, ended: Sequence[bool] = ()) -> Rollout:
        """Return texts as a rollout, for responses that this policy did not write. An empty text becomes one pad;
        `ended` (none: no text) says which get the end-of-sequence token that a chat's answer ends with."""
        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        if ended:
            last = sorted(ends_of(self.model), key=lambda end: end != self.tokenizer.eos_token_id)[:1]
            ids = [row + last if end else row for row, end in zip(ids, ended, strict=True)]
        return Rollout(*self._padded([row or [self.tokenizer.pad_token_id] for row in ids]), list(texts))

    def _padded(self, ids: list[list[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, shape R T, padded on one side."""
        longest = max(map(len, ids))
        tokens, mask = [], []
        for row in ids:
            pads, ones = [self.tokenizer.pad_token_id] * (longest - len(row)), [1] * len(row)
            tokens.append(pads + row if left else row + pads)
            mask.append([0] * len(pads) + ones if left else ones + [0] * len(pads))
        return torch.tensor(tokens, device=self.device), torch.tensor(mask, device=self.device)

    @staticmethod
    def _positions(mask: Tensor) -> Tensor:
        return (mask.cumsum(-1) - 1).clamp(min=0)

    def _read_once(self, model: Any, prefix: Prefix) -> DynamicCache | None:
        """Read every prompt but its last token once; None where the model keeps no cache that rows can share."""
        if prefix.tokens.shape[1] < 2:
            return None
        cache = model(
            input_ids=prefix.tokens[:, :-1],
            attention_mask=prefix.mask[:, :-1],
            position_ids=self._positions(prefix.mask)[:, :-1],
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        return cache if isinstance(cache, DynamicCache) else None

    def _read_all(self, model: Any, prefix: Prefix, seen: list[Tensor]) -> DynamicCache | None:
        """Read every prompt but its last token once; those that experiments share, below the first layer that learns,
        once for all of them. States go into `seen` as `Trunk.recorded` puts them there."""
        places: dict[tuple[int, ...], int] = {}
        rows = [places.setdefault(tuple(ids), len(places)) for ids in prefix.ids()]
        trunk = self._trunk
        if trunk is None or self._experiments == 1 or len(places) == len(rows) or prefix.tokens.shape[1] < 2:
            return self._read_once(model, prefix)
        order = torch.tensor(rows, device=self.device)
        first = torch.tensor([rows.index(place) for place in places.values()], device=self.device)
        with trunk.alone():
            below = self._read_once(model, Prefix(prefix.tokens[first], prefix.mask[first]))
        with trunk.given(seen.pop()[order]):
            cache = self._read_once(model, prefix)
        if below is None or cache is None:
            return None
        below.reorder_cache(order)
        cache.layers[: trunk.first] = below.layers[: trunk.first]
        return cache

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Text], n: int, keys: Sequence[int], *, frozen: bool = False, read_once: bool = True
    ) -> Rollout:
        """Sample n responses to each prompt in one generate call.

        Args:
            prompts: B texts, or conversations.
            n: responses a prompt.
            keys: noise key of each of the B*n rows (`noise.key`).
            frozen: sample from the frozen initial model.
            read_once: read each prompt once, not n times; changes the last bits of what the model says.

        Returns:
            `Rollout` of B*n rows. Of experiments side by side, rows of one that gives no numbers have no tokens.

        Raises:
            NumericalError: the model gives no numbers.
        """
        decoding = self.decoding
        prefix = self._encode(prompts)
        samplers = LogitsProcessorList()
        if decoding.temperature:
            rows = torch.tensor(list(keys), dtype=torch.int64, device=self.device)
            samplers.append(NucleusSampler(rows, temperature=decoding.temperature, top_p=decoding.top_p))
        with self._of(frozen) as model, self._recorded() as seen:
            cache = self._read_all(model, prefix, seen) if read_once else None
            if cache is not None:
                cache.batch_repeat_interleave(n)
                make_room(cache, decoding.max_new_tokens)
            output = model.generate(
                input_ids=prefix.tokens.repeat_interleave(n, 0),
                attention_mask=prefix.mask.repeat_interleave(n, 0),
                past_key_values=cache,
                logits_processor=samplers,
                do_sample=False,  # the sampler has drawn: what is left is its argmax
                max_new_tokens=decoding.max_new_tokens,
                min_new_tokens=decoding.min_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        rollout = self._cut(output[:, prefix.tokens.shape[1] :])
        for sampler in samplers:
            rollout.mask[~sampler.finite] = 0
        if self._experiments == 1 and not all(rollout.lengths()):
            raise NumericalError(NOT_FINITE)
        self._memory.clear()
        if seen and cache is not None:
            self._memory.keep(prefix.ids(), seen, ids_of(rollout.tokens, rollout.mask))
        return rollout

    def _recorded(self) -> AbstractContextManager[list[Tensor]]:
        return nullcontext([]) if self._trunk is None else self._trunk.recorded()

    def _cut(self, tokens: Tensor) -> Rollout:
        ended = torch.isin(tokens, torch.tensor(ends_of(self.model) or [-1], device=tokens.device)).int()
        mask = (ended.cumsum(-1) - ended == 0).long()  # up to and with the first end
        tokens = torch.where(mask.bool(), tokens, self.tokenizer.pad_token_id)
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in ids_of(tokens, mask)]
        return Rollout(tokens, mask, texts)

    @torch.no_grad()
    def log_likelihood(
        self, prompts: Sequence[str], responses: Rollout, *, frozen: bool = False, chunk: int | None = None
    ) -> Tensor:
        """Return sum over response tokens of log p(token | prompt, tokens before).

        Args:
            prompts: the prompt of each row (equal neighbours are read once).
            responses: as many rows.
            frozen: score under the frozen initial model.
            chunk: rows scored at a time; None: as suits the device. Bounds memory, the logits being chunk x T x
                vocabulary.

        Returns:
            Log-likelihoods in nats, shape B*N. Divide by `lengths()` for the mean.
        """
        found: dict[int, Tensor] = {}
        ids = {prompt: self.reader.ids(prompt) for prompt in dict.fromkeys(prompts)} if self._trunk is not None else {}
        chunk = chunk or at_once(self.device, 64)
        heard, others = self._heard(prompts, responses, ids, found if frozen else None)
        for own, rows in ((True, heard), (False, others)):
            for start in range(0, len(rows), chunk):
                index = rows[start : start + chunk]
                asked, said = [prompts[i] for i in index], responses.rows(index)
                with self._of(frozen) as model:
                    log_p = self._token_log_p(model, asked, said)
                if own and frozen:
                    for prompt, response, each in zip(asked, ids_of(said.tokens, said.mask), log_p, strict=True):
                        self._memory.keep_frozen(ids[prompt], response, each)
                found |= dict(zip(index, log_p.sum(-1), strict=True))
        return torch.stack([found[i] for i in range(len(prompts))])

    def _heard(
        self,
        prompts: Sequence[str],
        responses: Rollout,
        ids: Mapping[str, Sequence[int]],
        said: dict[int, Tensor] | None,
    ) -> tuple[list[int], list[int]]:
        """Return the rows that were sampled last, and the others; rows go into `said` instead (unless it is None) where
        the frozen policy has read them."""
        heard: list[int] = []
        if self._trunk is None:
            return heard, list(range(len(prompts)))
        others: list[int] = []
        for i, response in enumerate(ids_of(responses.tokens, responses.mask)):
            known = None if said is None else self._memory.frozen(ids[prompts[i]], response)
            if known is not None and said is not None:
                said[i] = known
            else:
                (heard if self._memory.holds(ids[prompts[i]], response) else others).append(i)
        return heard, others

    def _token_log_p(self, model: Any, prompts: Sequence[str], responses: Rollout, *, share: bool = True) -> Tensor:
        """Return the log-likelihood of each token of each response, shape R T, 0 beyond its end.

        What was sampled last starts from the states that sampling left below the first layer that learns. Else `share`
        reads equal prompts once; one pass is cheaper where no two rows share a prompt.
        """
        asked = self._asked(prompts)
        places = {row: place for place, row in enumerate(dict.fromkeys(asked))}
        prefix = self._encode([prompt for _, prompt in places])
        rows = [places[row] for row in asked]
        known = self._remembered(model, prefix, rows, responses)
        if known is not None and not self._tried:
            self._tried = True
            if not self._agrees(model, prefix, rows, responses, known):
                self._trunk = known = None
        return self._pass(model, prefix, rows, responses, known, share=share and len(places) < len(prompts))

    def _asked(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        """Return the prompt of each row with a number that tells apart those that have to be read apart: each
        experiment has an adapter of its own, and reads as many prompts as the others."""
        each = len(prompts) // self._experiments
        asked = [(row // each, prompt) for row, prompt in enumerate(prompts)]
        counts = Counter(experiment for experiment, _ in dict.fromkeys(asked))
        return asked if len(set(counts.values())) == 1 else list(enumerate(prompts))

    def _agrees(self, model: Any, prefix: Prefix, rows: Sequence[int], responses: Rollout, known: Remembered) -> bool:
        """Return whether a pass that starts from the trunk says what a full one does: some architectures hand more from
        block to block than hidden states."""
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                found, whole = (
                    self._pass(model, prefix, rows, responses, states, share=True) for states in (known, None)
                )
            near = 1e-2 if in_full(next(model.parameters())) else 0.5
            apart = float((found - whole).abs().max())
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            apart, near = math.inf, 0.0
            _log.info("trunk: %s", one_line(error))
        finally:
            model.train(training)
        if not apart <= near:
            _log.warning("the policy's blocks cannot be passed over below its adapter: every pass is a full one")
        return apart <= near

    def _pass(
        self, model: Any, prefix: Prefix, rows: Sequence[int], responses: Rollout, known: Remembered | None, *,
        share: bool,
    ) -> Tensor:  # fmt: skip  # one argument a line says no more
        order = torch.tensor(rows, device=self.device)
        mask = torch.cat([prefix.mask[order], responses.mask], 1)
        tokens = torch.cat([prefix.tokens[order], responses.tokens], 1)
        cache, first = None, 0
        if known is not None or share:
            with self._below(known and known.prompts):
                cache = self._read_once(model, prefix)
        if cache is not None:
            cache.reorder_cache(order)
            first = prefix.tokens.shape[1] - 1
        head = self._heads[id(model)]
        apart = head.apart(self._experiments)
        with self._below(known and known.responses), head.left_out() if apart else nullcontext():
            said = model(
                input_ids=tokens[:, first:-1],
                attention_mask=mask[:, :-1],
                position_ids=self._positions(mask)[:, first:-1],
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=responses.tokens.shape[1],
            ).logits
        return head.log_p_of(said, responses.tokens, responses.mask, states=apart)

    def _below(self, states: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext() if states is None or self._trunk is None else self._trunk.given(states)

    def _remembered(self, model: Any, prefix: Prefix, rows: Sequence[int], responses: Rollout) -> Remembered | None:
        """Return the states of some rows below the first layer that learns, where sampling left them."""
        trunk = self._trunk
        if trunk is None or prefix.tokens.shape[1] < 2:
            return None
        if model.training and (trunk.noisy or getattr(model, "is_gradient_checkpointing", False)):
            return None
        width = responses.tokens.shape[1]
        return self._memory.find(prefix.ids(), rows, ids_of(responses.tokens, responses.mask), width)

    def token_log_p(self, prompts: Sequence[str], responses: Rollout, *, share: bool = True) -> Tensor:
        """Return log p(token | prompt, tokens before) of each response token, in nats, shape R T, 0 beyond its end.

        Differentiable in what is trained.

        Args:
            prompts: the prompt of each row.
            responses: as many rows.
            share: read equal prompts once; else one pass over whole sequences.
        """
        return self._token_log_p(self.model, prompts, responses, share=share)
