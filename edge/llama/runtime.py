"""The llama.cpp runtime: an Engine over one GGUF file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from backbone.errors import NearfarError
from backbone.schema import SchemaConstraint, Schemas
from backbone.schema_trial import TrialCancelled
from backbone.terminal_text import readable
from edge.device.cpu_load import OthersLoad
from edge.device.governor import ThreadTuner
from edge.llama.context import Context
from edge.llama.draft_model import open_draft
from edge.llama.embedder import Embedder
from edge.llama.generation import Generation, GenerationTask, StateObservers
from edge.llama.gpu import place
from edge.llama.kv_losses import compression_notice
from edge.llama.kv_types import F16
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.plan import plan_for
from edge.llama.prompt import PromptWriter
from edge.llama.slots import slots_of
from edge.llama.trial_load import require_survival
from edge.llama.vocabulary import schema_vocabulary
from engine.answer_state import AnswerState, Deadline
from engine.drafts import DraftStats
from offload.asker import asker
from offload.engine import AnswerStream, StateObserver
from offload.errors import EngineStopped, RequestError
from offload.messages import Delta, Finish, ModelCard, Request
from offload.own_sampling import sampling_of_gguf
from offload.prompt_length import require_short, require_short_text
from offload.reading import Progress, listener
from offload.worker import Worker

__all__ = ["LlamaEngine", "LlamaOptions"]
_log = logging.getLogger("nearfar.edge")

SLACK = 64  # tokens beside what a request is known to need
_EMBEDDED_AT_ONCE = 16  # texts of one asker, before another has its turn


class LlamaEngine:
    """llama.cpp engine: answers from a GGUF model, one after another or several at once.

    `model`, `context`, `slots`, `prompts` and `draft_model` are open to tests and measurements,
    which read them while nothing is answered.

    `only` is the one request that it is made for, where that is known: its context is then no
    longer than that needs, and takes no time and memory that nobody uses. Without `frees_memory`,
    for a process that ends behind its answer, closing leaves a model in main memory to the system.
    Raises CheckpointError for a file that cannot be run and SettingsError for a context longer than
    the model was trained for.
    """

    def __init__(
        self,
        path: Path,
        *,
        options: LlamaOptions | None = None,
        only: Request | None = None,
        frees_memory: bool = True,
    ) -> None:
        self.options = options or LlamaOptions()
        self._require_survival(path)
        others = OthersLoad()  # watches while the model is loaded
        with contextlib.ExitStack() as stack:
            room = open_draft(path, self.options, stack)
            self.draft_model = room.draft
            with room.refusals():
                layers = place(path, self.options, room.memory_bytes, room.gpus)
                # Some GPU's drivers end a process badly that still holds buffers of theirs.
                self._frees_memory = frees_memory or layers != 0
                self.model = stack.enter_context(
                    Model(
                        path,
                        num_gpu_layers=layers,
                        use_mmap=self.options.use_mmap,
                        adapters=self.options.adapters,
                    )
                )
                self.prompts = PromptWriter(self.model)
                named = self.model.metadata("general.name") or ""
                self._own = sampling_of_gguf(self.model.metadata, named, path.stem)
                needed = 0 if only is None else self._tokens_for(only)
                self.context = stack.enter_context(self._make_context(room.free_bytes, needed))
            if self.draft_model is not None:
                self.draft_model.time_steps(self.context)
            contexts = [self.context] + ([self.draft_model.context] if self.draft_model else [])
            tuner = ThreadTuner(*contexts, fixed_threads=self.options.num_threads, others=others)
            self.slots = slots_of(self.model, self.context, self.params, self.options, tuner)
            vocabulary = self.model.vocabulary
            self._schemas = Schemas(partial(schema_vocabulary, vocabulary), vocabulary.num_tokens)
            self.generation = Generation(
                vocabulary,
                self.prompts,
                max_model_len=self.max_model_len,
                max_draft_tokens=self.options.max_draft_tokens,
                draft=self.draft_model,
            )
            self.embedder = Embedder(self.model, self.params)
            stack.callback(self.embedder.close)
            self._owned = stack.pop_all()  # from here on, close() frees them
        self._worker: Worker[Delta | Finish] = Worker(
            "nearfar-edge", num_threads=self.options.max_num_seqs
        )
        self._embedding = asyncio.Lock()
        self._watchers = StateObservers()
        self._closed = False

    def _require_survival(self, path: Path) -> None:
        if self.options.known_models is None:
            return
        for each in filter(None, (path, self.options.draft_model)):
            require_survival(each, self.options.known_models)

    def _tokens_for(self, request: Request) -> int:
        """Return how many tokens a request needs, with what another's beginning of it may add."""
        try:
            prompt, _ = self.prompts.begun(request)
        except NearfarError:  # it is refused when it is asked
            return 0
        return len(prompt) + 2 * request.sampling.max_tokens + SLACK

    def _make_context(self, free_bytes: int, needed: int) -> Context:
        self.params = plan_for(self.model, self.options, free_bytes, needed)
        if self.options.kv_cache_dtype == "auto" and self.params.kv_types != F16:
            _log.warning("nearfar: %s", compression_notice(self.model, self.params.kv_types))
        return Context(self.model, self.params)

    @property
    def draft_stats(self) -> DraftStats:
        """Return how the drafts of all answers so far fared."""
        return self.generation.draft_stats

    @property
    def max_model_len(self) -> int:
        """Return how many tokens the context holds."""
        return self.params.num_tokens

    def card(self) -> ModelCard:
        """Return what this engine runs and can do."""
        model = self.model
        return ModelCard(
            name=readable(model.metadata("general.name") or model.path.stem),
            architecture=model.architecture,
            runtime="llama.cpp",
            num_parameters=model.num_parameters,
            quantization=model.quantization,
            size_bytes=model.size_bytes,
            max_model_len=self.max_model_len,
            chat=bool(self.prompts.template),
            vocab_size=model.vocabulary.num_tokens,
        )

    @property
    def path(self) -> Path:
        """Return the model's file."""
        return self.model.path

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens that the model would read; errors as PromptWriter.tokens()."""
        return self.prompts.tokens(request)

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the tokens of a raw prompt; see Tokenizing (offload/engine.py)."""
        if add_special:
            return self.prompts.raw(text)
        return self.model.vocabulary.tokenize(text, parse_special=True)

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as they are written."""
        return self.model.vocabulary.written(tokens)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of tokens; control tokens have none."""
        return self.model.vocabulary.detokenize(tokens)

    def watch(self, request_id: str, observer: StateObserver) -> AbstractContextManager[None]:
        """Show an answer's hidden states to `observer` while the block lasts (offload/engine.py).

        The prompt's last token is then evaluated in a step of its own.
        """
        return self._watchers.watch(request_id, observer)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text. Raises RequestError.

        Who asks for many takes turns with the others, and all of them hold one thread.
        """
        self._require_open()
        for text in texts:
            require_short_text(text, self.max_model_len)
        gone, vectors = threading.Event(), list[list[float]]()
        try:
            for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
                some = texts[start : start + _EMBEDDED_AT_ONCE]
                async with self._embedding:
                    vectors += await asyncio.to_thread(self.embedder.embed, some, gone)
        finally:
            gone.set()
        return vectors

    async def forget(self, session: str) -> None:
        """Forget a conversation's KV cache, in memory and on disk."""
        self._require_open()
        await asyncio.to_thread(self.slots.forget, _name(session, asker()) or session)
        if self.draft_model is not None:
            await asyncio.to_thread(self.draft_model.forget)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the answer, a Delta per token; the last item, and only it, is a Finish."""
        self._require_open()
        require_short(request, self.max_model_len, forgets=self.slots.all[0].cache.sliding)
        received, who, progress = time.monotonic(), asker(), listener()
        with contextlib.suppress(asyncio.TimeoutError):  # which answer() will tell of
            schema = request.sampling.json_schema
            await asyncio.wait_for(self._schemas.tried(schema), request.deadline_s)
        stream = self._worker.stream(
            lambda gone: self.answer(request, gone, received=received, who=who, progress=progress)
        )
        async with contextlib.aclosing(stream):
            async for item in stream:
                yield item

    def answer(
        self,
        request: Request,
        cancelled: threading.Event | None = None,
        *,
        received: float | None = None,
        who: str = "",
        progress: Progress | None = None,
    ) -> Iterator[Delta | Finish]:
        """Yield what generate() streams, in the calling thread; for `max_num_seqs`
        threads at a time, the next one waits.

        `received`, of time.monotonic(), is when the request's deadline began to count; `who` asks;
        `progress` is told how much of the prompt has been read.
        """
        self._require_open()
        request = self._own.settled(request)
        received = time.monotonic() if received is None else received
        prompt, spell = self.prompts.begun(request)
        if not prompt:
            raise RequestError("the prompt has no tokens; write a question")
        deadline = Deadline(request, cancelled, received)
        try:
            # Before a slot is taken: some schemas take seconds to compile.
            constraint = self._constraint(request, deadline)
        except TrialCancelled:
            answer = AnswerState(
                request, num_prompt=len(prompt), queue_s=time.monotonic() - received
            )
            yield answer.finish(deadline.ended() or "cancelled")
            return
        session, owner = _name(request.session, who), (who, request.cache_salt)
        with self.slots.take(session, prompt, owner) as slot, slot.writing():
            slot.conversation.enter(session, prompt)
            queue_s = time.monotonic() - received
            task = GenerationTask(
                request=request,
                prompt=prompt,
                spell=spell,
                constraint=constraint,
                answer=AnswerState(
                    request,
                    num_prompt=len(prompt),
                    queue_s=queue_s,
                    stops=self.prompts.stops(request),
                ),
                deadline=deadline,
                observer=self._watchers.of(request.id),
                progress=progress,
            )
            yield from self.generation.write(slot, task)

    def _constraint(self, request: Request, deadline: Deadline) -> SchemaConstraint | None:
        schema = request.sampling.json_schema
        if schema is None:
            return None
        return self._schemas.constraint(schema, request.answer_prefix, deadline.ended)

    def _require_open(self) -> None:
        if self._closed:
            raise EngineStopped("this engine is closed; load the model again")

    async def aclose(self) -> None:
        """Wait for the answer in progress, then free the model; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Keep the conversation and free the model, for callers without an event loop."""
        if not self.model.is_open:
            return
        self._closed = True
        self._worker.close()
        for slot in self.slots.all:
            slot.conversation.leave()
        if self._frees_memory:
            self._owned.close()


def _name(session: str | None, who: str) -> str | None:
    """Return under which name a conversation is kept: no asker finds another's."""
    return f"{who}\n{session}" if session is not None and who else session
