"""The cloud's engine: serves any supported Hugging Face folder, many requests in one batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence as Items
from functools import partial
from pathlib import Path

from backbone.errors import NearfarError
from backbone.files import expanded
from backbone.process_limits import is_out_of_memory
from backbone.sampler_factory import sampler_for
from backbone.sampling import Sampler
from backbone.schema import Schemas, of_tokenizer
from backbone.tokenized import Tokenized
from backbone.tokenizer import Tokenizer
from cloud.engine.response_cache import ResponseCache
from engine.draft_gate import StepTimes
from engine.engine_choice import CHOICES_FILE
from engine.prompt_lookup import PromptLookup
from engine.torch.auto_choice import settled
from engine.torch.continuous_batching import FAR_FAILURES, Batching
from engine.torch.engine_loop import FAR_LOOP, EngineLoop, EventMailbox
from engine.torch.loading import LoadedModel, load_model
from engine.torch.options import EngineOptions
from engine.torch.overlapped_batching import OverlappedBatching
from engine.torch.prompt import prompt_tokens, scored
from engine.torch.request_state import Item, RequestState
from engine.torch.sequence import QueueLane, Sequence
from engine.torch.step_profile import StepProfile
from engine.torch.tp_launcher import launch_workers
from offload.asker import asker
from offload.config.places import places
from offload.engine import AnswerStream
from offload.errors import ContextLengthError, EngineStopped, Overloaded
from offload.messages import Delta, EngineLoad, Finish, ModelCard, Request
from offload.own_sampling import sampling_of_folder
from offload.priority import priority
from offload.prompt_length import require_short
from offload.reading import listener
from quantize.model_files import model_files

_TOKEN_COST = 0.1  # of a step, for each drafted token: the weights are read anyway
_STUCK_S = 5.0  # for a step that may wait for a dead process, and cannot be interrupted


class CloudEngine(Tokenized):
    """Cloud engine of one model; the network lives in one thread of its own."""

    def __init__(self, folder: Path, *, options: EngineOptions | None = None) -> None:
        """Load a model folder. Raises CheckpointError or SettingsError."""
        options = options or EngineOptions()
        kept_in = places().cache / CHOICES_FILE
        options, self.choice = settled(model_files(folder), options, kept_in)
        self.launcher, rendezvous = launch_workers(folder, options)
        step_profile = _step_profile(options)
        with self.launcher.ended_on_failure():
            model: LoadedModel = load_model(
                folder, options, rendezvous, on_loaded=self.launcher.wait_until_loaded
            )
        self._card = model.card
        self._own = sampling_of_folder(folder)
        self.tokenizer: Tokenizer = model.tokenizer
        self._vocab_size = model.vocab_size
        self._kv_bytes = model.kv_bytes
        vocabulary = partial(of_tokenizer, model.tokenizer, model.vocab_size)
        self._schemas = Schemas(vocabulary, model.vocab_size)
        self._num_speculative_tokens = options.speculative_tokens()
        self._response_cache = ResponseCache(options.response_cache_size)
        self._mail = EventMailbox()
        # For tests and benchmarks, which watch steps and change what they compute.
        self.runner, self.cache, self.scheduler = model.runner, model.cache, model.scheduler
        self.batching = _batching(model, options)
        self._loop = EngineLoop(self.batching, self._mail.deliver, step_profile=step_profile)
        self._closed = False

    def card(self) -> ModelCard:
        """Return what this engine runs."""
        return self._card

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens of a whole request, however long. Raises RequestError."""
        return prompt_tokens(self.tokenizer, request, writes_plain=False)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache once it is full; on a CPU it grows to that."""
        return self._kv_bytes

    def chosen(self) -> str:
        """Return what "auto" means here, in one line; see offload.engine.Choosing."""
        return str(self.choice)

    def report(self) -> EngineLoad:
        """Return how busy it is now."""
        return self.scheduler.report()

    def broken(self) -> str | None:
        """Return why it can answer no more; see offload.engine.Breakable."""
        if self._closed:
            return None
        # Of a process that died while nothing was computed, no step has told the loop.
        return self.launcher.lost() or (FAR_LOOP.broken if self._loop.broken else None)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream an answer; see offload.engine.Engine."""
        self._require_running()
        request = self._own.settled(request)
        received_s = time.monotonic()
        require_short(request, self._card.max_model_len)
        await self._schemas.tried(request.sampling.json_schema)
        # A long text takes tens of milliseconds, which the event loop must not lose.
        prompt, sampler = await self._prepared(request)
        self._require_running()
        key = self._response_cache.key(asker(), request, prompt)
        if (known := self._response_cache.get(key)) is not None:
            for item in known:
                yield item
            return
        inbox: asyncio.Queue[Item] = asyncio.Queue()
        state = RequestState(
            request,
            self._sequence(request, prompt, sampler, received_s),
            self.tokenizer,
            received_s=received_s,
            post=partial(self._mail.post, (asyncio.get_running_loop(), inbox)),
            progress=listener(),
        )
        self._loop.add(state)
        try:
            answer: list[Delta | Finish] = []
            while not answer or not isinstance(answer[-1], Finish):
                posted = await inbox.get()
                assert not isinstance(posted, NearfarError), "on the far side a Finish tells of it"
                answer.append(posted)
                yield posted
            self._response_cache.put(key, answer)
        finally:
            self._loop.cancel(state)

    async def aclose(self) -> None:
        """End the engine's thread; answers under way end with an error."""
        if not self._closed:
            timeout_s = _STUCK_S if self.broken() else None
            self._closed = True
            await asyncio.to_thread(self._loop.close, timeout_s)
            await asyncio.to_thread(self.runner.leave)
            await asyncio.to_thread(self.launcher.end)

    async def _prepared(self, request: Request) -> tuple[list[int], Sampler]:
        try:
            return await asyncio.to_thread(self._prepare, request)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise Overloaded(FAR_FAILURES.memory) from None

    def _prepare(self, request: Request) -> tuple[list[int], Sampler]:
        prompt = self.prompt_tokens(request)
        if len(prompt) >= self._card.max_model_len:
            raise ContextLengthError(len(prompt), self._card.max_model_len)
        sampler = sampler_for(
            request.sampling,
            prompt,
            begun=request.answer_prefix,
            vocab_size=self._vocab_size,
            schemas=self._schemas,
            ends=self.tokenizer.eos_token_ids,
        )
        return prompt, sampler

    def _sequence(
        self, request: Request, prompt: list[int], sampler: Sampler, received_s: float
    ) -> Sequence:
        device, asked = asker(), request.sampling
        salts = (device, request.cache_salt)
        drafts = self._num_speculative_tokens if sampler.takes_drafts else 0
        return Sequence(
            prompt,
            max_tokens=min(asked.max_tokens, self._card.max_model_len - len(prompt)),
            sampler=sampler,
            deadline_s=received_s + (request.deadline_s or float("inf")),
            num_alternatives=asked.logprobs,
            scores=scored(self.tokenizer, request, prompt),
            lane=QueueLane(device, priority() == "batch"),
            salt="\n".join(salts) if any(salts) else "",
            drafter=partial(_lookup, drafts) if drafts else None,
        )

    def _require_running(self) -> None:
        if self._closed:
            raise EngineStopped("this engine is closed; start a new one")
        if (why := self.broken()) is not None:
            raise EngineStopped(why)


def _step_profile(options: EngineOptions) -> StepProfile | None:
    if not options.profile:
        return None
    return StepProfile(expanded(options.profile), options.torch_device())


def _lookup(max_draft: int, tokens: Items[int]) -> PromptLookup:
    return PromptLookup(tokens, max_draft=max_draft, times=StepTimes(token_cost=_TOKEN_COST))


def _batching(model: LoadedModel, options: EngineOptions) -> Batching:
    if options.overlaps:
        return OverlappedBatching(model.scheduler, model.runner.step, model.runner.launch)
    return Batching(model.scheduler, model.runner.step)
