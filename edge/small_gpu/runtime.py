"""The torch runtime of the edge: an Engine over a Hugging Face folder, for small GPUs and CPUs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import torch

from backbone.config import NetworkConfig
from backbone.cpu_network import CpuNetwork, fits_cpu_network
from backbone.errors import NearfarError
from backbone.network import Network
from backbone.process_limits import is_out_of_memory
from backbone.sampler_factory import sampler_for
from backbone.schema import Schemas, of_tokenizer
from backbone.terminal_text import readable
from backbone.tokenized import Tokenized
from edge.llama.fit import DoesNotFit
from edge.small_gpu.device import context_len, device_of, dtype_of, free_bytes_of
from edge.small_gpu.fit import RingPlan, fitting_plan
from edge.small_gpu.governed_step import governed
from edge.small_gpu.options import TorchOptions
from engine.draft_gate import DraftGate
from engine.drafts import GatedDrafter
from engine.prompt_lookup import PromptLookup
from engine.sessions import SessionStore
from engine.torch.continuous_batching import Batching, FailureTexts
from engine.torch.engine_loop import EngineLoop, EventMailbox, LoopOptions
from engine.torch.kv.block_store import LAYOUT
from engine.torch.kv.ring_cache import RingTables
from engine.torch.kv.ring_slots import RingSlot, RingSlots
from engine.torch.prompt import begun, pinned, prompt_tokens, scored, stops
from engine.torch.request_state import Item, RequestState
from engine.torch.ring_store import RingAttention, RingStore
from engine.torch.runner import Runner
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import HeldConversation, QueueLane, Sequence
from engine.torch.token_healing import TextConstraints
from engine.window import Pins
from offload.asker import asker
from offload.chat_turns import PLAIN_TOLD
from offload.engine import AnswerStream
from offload.errors import ContextLengthError, EngineStopped
from offload.messages import Delta, Finish, ModelCard, Request
from offload.own_sampling import sampling_of_folder
from offload.prompt_length import require_short
from offload.reading import listener
from quantize.loading import as_coded, has_coded_layers, read_network
from quantize.model_files import model_files, tokenizer_of
from quantize.packed_products import quickest

_log = logging.getLogger("nearfar.prompt")

PIECE = 64  # tokens of a prompt in one step while others write
FAILURES = FailureTexts(
    not_a_number="the model's output is no number; its weights are damaged, or overflow in this "
    "precision: set dtype to float32 or bfloat16",
    step="the model could not be computed ({}); ask again, and if it stays so, fetch it again",
    memory="the memory is full; set edge.max_model_len or edge.max_num_seqs lower, or close "
    "programs",
)
LOOP = LoopOptions(
    name="nearfar-edge",
    closed="this engine is closed; load the model again",
    broken="the near engine broke down; start it again",
    finishes=True,
)

__all__ = ["TorchEdgeEngine", "TorchOptions"]


class TorchEdgeEngine(Tokenized):
    """Answers requests from an HF folder or a GGUF file, several at once; int4 and int8 stay so.

    Raises CheckpointError for a model that cannot be run, SettingsError for a context longer than
    the model was trained for, and DoesNotFit where the memory does not hold it.
    """

    def __init__(self, folder: Path, *, options: TorchOptions | None = None) -> None:
        self.options = options = options or TorchOptions()
        if options.num_threads:
            torch.set_num_threads(options.num_threads)
        self.path = folder
        self._files = model_files(folder)
        config = self._files.network_config()
        self.tokenizer = tokenizer_of(self._files, None, config)
        self._own = sampling_of_folder(folder)
        self._told_plain = False  # that there is no chat template
        self._device = device_of(options)
        self._dtype = dtype_of(options, self._device, self._files)
        self._plan = self._fitting(config)
        self._gate = DraftGate()  # of drafts, over all answers
        self.text_constraints = TextConstraints(self.tokenizer, config.vocab_size)
        vocabulary = partial(of_tokenizer, self.tokenizer, config.vocab_size)
        self._schemas = Schemas(vocabulary, config.vocab_size)
        try:
            network = read_network(
                self._files,
                device=self._device,
                dtype=self._dtype,
                made=quickest if options.fast_linear else as_coded,
            )
            network.config = replace(network.config, rope_len=self._plan.limit)
            self.network = _laid_out(network, self._plan.num_slots)
            batching, self.slots = self.make_batching()
            self._mail = EventMailbox()
            self.loop = EngineLoop(batching, self._mail.deliver, LOOP, at_end=self.slots.leave_all)
        except Exception as error:
            if is_out_of_memory(error):
                raise DoesNotFit(FAILURES.memory) from None
            raise
        # An engine that is dropped without being closed does not leave its thread behind.
        weakref.finalize(self, self.loop.stop)
        self._closed = False

    def _fitting(self, config: NetworkConfig) -> RingPlan:
        options, limit = self.options, context_len(config, self.options)
        if options.window:
            limit = min(limit, options.window + options.num_sinks)
        free_bytes = free_bytes_of(self._device) if options.check_memory else 1 << 62
        return fitting_plan(
            self._files, config, options, limit=limit, dtype=self._dtype, free_bytes=free_bytes
        )

    def make_batching(self) -> tuple[Batching, RingSlots]:
        # Nothing here may hold the engine, or the loop's thread would keep it alive.
        network, plan, options = self.network, self._plan, self.options
        device, dtype = self._device, self._dtype
        tables = RingTables(network.config, plan.limit, device)

        def make_slot() -> RingSlot:
            ring = plan.ring(network.config, device=device, dtype=dtype, tables=tables)
            return RingSlot(ring, sliding=options.window != 0, keep=options.kv_keep)

        slots = RingSlots(make_slot, plan.num_slots, self._store(plan))
        store = RingStore(slots)
        attention = RingAttention(store, device)
        runner = Runner(network, attention, attention.batch)
        scheduler = Scheduler(
            store,
            max_num_seqs=plan.num_slots,
            # However many write, a prompt gets on.
            max_num_batched_tokens=max(options.max_num_batched_tokens, plan.num_slots),
            mixed_prefill_tokens=PIECE,
            max_drafting=1,
        )
        step = governed(runner.step, device, options.num_threads)
        return Batching(scheduler, step, FAILURES), slots

    def _store(self, plan: RingPlan) -> SessionStore | None:
        options = self.options
        if options.session_folder is None:
            return None
        # Everything that decides how a state is laid out, and what it means, is part of its name.
        model = f"{self._files.fingerprint()} {plan} {self._dtype} {LAYOUT}"
        return SessionStore(
            options.session_folder, model=model, budget_bytes=options.session_budget_bytes
        )

    @property
    def max_model_len(self) -> int:
        """Return how many tokens the context holds."""
        return self._plan.limit

    def card(self) -> ModelCard:
        """Return what this engine runs and can do."""
        return ModelCard(
            name=readable(self.path.resolve().name),
            architecture=self.network.config.model_type,
            runtime="torch",
            num_parameters=_num_parameters(self.network.config),
            quantization=self._files.quantization_name(),
            size_bytes=self._files.stored_bytes,
            max_model_len=self.max_model_len,
            chat=self.tokenizer.chat_template is not None,
            vocab_size=self.tokenizer.max_token_id + 1,
        )

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens of a whole request. Raises RequestError."""
        return prompt_tokens(self.tokenizer, request)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the answer, a Delta per token; the last item, and only it, is a Finish.

        Raises RequestError for what this model cannot take, ContextLengthError among them.
        """
        received = time.monotonic()
        require_short(request, self.max_model_len, forgets=self.options.window != 0)
        queue: asyncio.Queue[Item] = asyncio.Queue()
        post = partial(self._mail.post, (asyncio.get_running_loop(), queue))
        await self._schemas.tried(request.sampling.json_schema)
        # Tokenizing a long prompt, or compiling a schema, would hold up everybody else's.
        # Which runs in this task's context, and so finds who hears of the reading.
        state = await asyncio.to_thread(self.make_state, request, post, received)
        self.loop.add(state)
        try:
            while not isinstance(item := await queue.get(), Finish):
                yield _delta(item)
            yield item
        finally:
            self.loop.cancel(state)

    def answer(
        self,
        request: Request,
        cancelled: threading.Event | None = None,
        *,
        received: float | None = None,
    ) -> Iterator[Delta | Finish]:
        """Yield what generate() streams, for a caller without an event loop.

        `received`, of time.monotonic(), is when the request's deadline began to count.
        """
        queue: SimpleQueue[Item] = SimpleQueue()
        state = self.make_state(request, queue.put, received or time.monotonic(), cancelled)
        self.loop.add(state)
        try:
            while not isinstance(item := queue.get(), Finish):
                yield _delta(item)
            yield item
        finally:
            self.loop.cancel(state)

    def make_state(
        self,
        request: Request,
        post: Callable[[Item], None],
        received: float,
        gone: threading.Event | None = None,
    ) -> RequestState:
        """Return a request made ready. Raises RequestError."""
        self._require_open()
        request = self._own.settled(request)
        whole = prompt_tokens(self.tokenizer, request)
        pins = self._pins(request, whole)
        prompt, text = begun(self.tokenizer, self.text_constraints.healer, request, whole)
        asked = request.sampling
        sampler = sampler_for(
            asked,
            prompt,
            begun=request.answer_prefix,
            vocab_size=self.network.config.vocab_size,
            schemas=self._schemas,
            ends=self.tokenizer.eos_token_ids,
        )
        drafts = self.options.max_draft_tokens > 0 and sampler.takes_drafts
        sequence = Sequence(
            prompt,
            max_tokens=asked.max_tokens,
            sampler=sampler,
            deadline_s=received + (request.deadline_s or float("inf")),
            num_alternatives=asked.logprobs,
            scores=scored(self.tokenizer, request, prompt),
            lane=QueueLane(asker()),
            drafter=partial(_gated, self._gate, self.options.max_draft_tokens) if drafts else None,
            conversation=HeldConversation(
                pins=pins.within(len(prompt)),
                owner=(asker(), request.cache_salt),
                session=_kept_as(request),
                # A prompt whose tokens are all to be judged is read from its start.
                reuse=self.options.enable_prefix_caching and not asked.prompt_logprobs,
            ),
        )
        return RequestState(
            request,
            sequence,
            self.tokenizer,
            received_s=received,
            post=post,
            side="edge",
            stops=self._stops(request),
            spelling=self.text_constraints.bind(text, sampler),
            progress=listener(),
            gone=gone,
        )

    def _stops(self, request: Request) -> tuple[str, ...]:
        found = stops(self.tokenizer, request)
        if found and not self._told_plain:
            self._told_plain = True
            _log.warning(PLAIN_TOLD, self.path.resolve().name)
        return found

    def _pins(self, request: Request, prompt: list[int]) -> Pins:
        """Return what of a prompt must stay; raises ContextLengthError where that cannot fit."""
        limit, pins = self._plan.limit, Pins.whole(len(prompt))
        too_long = len(prompt) + request.sampling.max_tokens > limit
        sliding = self.options.window != 0
        # A prompt whose tokens are all to be judged is read whole or not at all.
        if sliding and too_long and not request.sampling.prompt_logprobs:
            pins = pinned(self.tokenizer, request, prompt)
        if pins.num_tokens >= limit:
            raise ContextLengthError(pins.num_tokens, limit)
        return pins

    async def forget(self, session: str) -> None:
        """Forget a conversation's KV cache, in memory and on disk."""
        self._require_open()
        forget = partial(self.slots.forget, _name(session, asker()))
        await asyncio.to_thread(self.loop.call, forget)

    def _require_open(self) -> None:
        if self._closed:
            raise EngineStopped("this engine is closed; load the model again")

    async def aclose(self) -> None:
        """Wait for the answers in progress, then let the model go; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Keep the conversations and end the thread, for callers without an event loop."""
        self._closed = True
        self.loop.close()


def _gated(gate: DraftGate, max_draft: int, tokens: Items[int]) -> GatedDrafter:
    return GatedDrafter(PromptLookup(tokens, max_draft=max_draft), gate)


def _delta(item: Item) -> Delta:
    if isinstance(item, NearfarError):
        raise item
    assert isinstance(item, Delta), "a Finish is the end"
    return item


def _kept_as(request: Request) -> str | None:
    """Return under which name a conversation is kept; salted ones are not."""
    if request.session is None or request.cache_salt:
        return None
    return _name(request.session, asker())


def _name(session: str, owner: str) -> str:
    return f"{owner}\0{session}" if owner else session


def _num_parameters(config: NetworkConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Network(config).parameters())


def _laid_out(network: Network, num_answers: int) -> Network | CpuNetwork:
    """Return the network as its steps are computed: on a CPU, plain weights are packed.

    The network may be taken apart for it. Either hands over keys before their rotation, see Ring.
    """
    weight = network.embed_tokens.weight
    fits = fits_cpu_network(network.config, weight.device, weight.dtype)
    if fits and not has_coded_layers(network):
        return CpuNetwork(network, 0, num_rows=num_answers)
    return network
