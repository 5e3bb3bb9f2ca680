"""Engine of the assistant: opened from the settings, and exchanged when a person changes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from backbone.errors import NearfarError
from edge.chat.consent import ConsentPrompt, Question
from edge.chat.presets import Preset, preset_of, read_presets
from edge.chat.status_line import LinkState, link, link_state, memory_bytes
from edge.conversations.forget import forget
from edge.conversations.store import Conversations
from edge.models.local_models import choices, find_model, spelt
from edge.models.used_models import note_use, used_by_path
from edge.near.factory import RunFlags, open_hybrid
from edge.near.previewing import previewer
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.egress.outbox import Outbox
from offload.egress.permission import LivePermission
from offload.egress.preview import Preview
from offload.egress.privacy.shareable_part import strictest
from offload.engine import (
    AnswerStream,
    Embedding,
    Engine,
    ForwardsTokenizing,
    Named,
    Routing,
    Tokenizing,
    held_in_memory,
    settling,
)
from offload.errors import RequestError, SettingsError, Unsupported
from offload.hybrid.hybrid import Hybrid
from offload.messages import ModelCard, Privacy, Request
from offload.pair import EDGE_MODEL

Open = Callable[[Settings, Places, RunFlags], Engine]


class SettingsChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings change by a person; what is None stays."""

    model: str | None = None
    window: int | None = None
    kv_cache_dtype: str | None = None
    private: bool | None = None
    preset: str | None = None
    learn: Literal["on", "off"] | None = None  # from far answers, in use


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Engine status as the page shows it."""

    model: ModelCard
    models: list[str]
    chosen: str
    window: int
    kv_cache_dtype: str
    private: bool
    has_cloud: bool
    is_offline: bool  # for as long as the assistant runs
    asks: bool  # before anything leaves
    is_demonstration: bool  # the embedded model, which knows little
    cloud: LinkState
    link: str
    memory_bytes: int
    preset: str  # that new conversations begin with; empty for none
    presets: list[str]
    learn: str  # from far answers, in use: on, off, or ask
    asks_to_learn: bool  # once a far answer was seen


class AssistantEngine:
    """Engine of the assistant. While private, there is no cloud: its link is closed, not unused."""

    def __init__(
        self,
        settings: Settings,
        here: Places,
        *,
        ask: Question,
        offline: bool = False,
        serving: bool = False,
        open_engine: Open = open_hybrid,
        refused: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.here = here
        self._ask = ask
        self._offline = offline
        self._serving = serving  # programs ask too, many at once
        self.open_engine = open_engine
        self._refused = refused
        self._before: EngineStatus | None = None  # while the engine is exchanged
        self.outbox = Outbox(here.outbox)
        note_use(settings.edge.model, here.models)
        self._used = [settings.edge.model, *used_by_path(here.models)]
        self.lock = asyncio.Lock()  # to be held by whoever needs the engine to stay as it is
        self._allowed = LivePermission(here.config_file)
        self.engine = self._make()
        self.current = CurrentEngine(lambda: self.engine)

    def _make(self) -> Engine:
        offline = self._offline or self.privacy is Privacy.LOCAL_ONLY
        consent = ConsentPrompt(self._ask, self.here, refused=self._refused)
        choice = RunFlags(offline=offline, consent=consent, serving=self._serving)
        return self.open_engine(self.settings, self.here, choice)

    @property
    def privacy(self) -> Privacy:
        """The class of what is written here, as the settings and the preset say now."""
        return strictest(self._said(), self.preset().privacy or self._said())

    def _said(self) -> Privacy:
        return self._allowed().class_of_text(attended=True)

    def preset(self) -> Preset:
        """Return the preset in use, one that says nothing where there is none."""
        return read_presets(self.presets_file).get(self.settings.edge.preset, Preset())

    @property
    def presets_file(self) -> Path:
        """The file of the presets."""
        return self.here.presets

    def preview(self, request: Request) -> Preview:
        """Return what would leave, by the rules that hold now."""
        return previewer(self.here, lambda: self.engine)(request)

    @property
    def ledger(self) -> Path:
        """The file of what left."""
        return self.here.ledger

    @property
    def is_offline(self) -> bool:
        """Whether nothing elsewhere is reached in this run, as --offline says."""
        return self._offline

    @property
    def has_cloud(self) -> bool:
        """Whether a cloud is set up that may be asked in this run."""
        return bool(self.settings.cloud.url) and not self._offline

    def status(self) -> EngineStatus:
        """Return what the page shows."""
        if self._before is not None:
            return self._before
        edge = self.settings.edge
        return EngineStatus(
            model=self.engine.card(),
            models=self._models(),
            chosen=spelt(edge.model),
            window=edge.window,
            kv_cache_dtype=edge.kv_cache_dtype,
            private=self.privacy is Privacy.LOCAL_ONLY,
            has_cloud=self.has_cloud,
            is_offline=self._offline,
            asks=self.privacy is Privacy.ASK,
            is_demonstration=edge.model in ("embedded", EDGE_MODEL.stem),
            cloud=link_state(self.engine),
            link=link(self.engine),
            memory_bytes=memory_bytes(),
            preset=edge.preset,
            presets=list(read_presets(self.presets_file)),
            learn=self.settings.policy.learn,
            asks_to_learn=isinstance(self.engine, Hybrid) and self.engine.asks_to_learn,
        )

    def _models(self) -> list[str]:
        """Return what can be chosen, aliases and what was used by its path among it."""
        self._used = [*dict.fromkeys([*self._used, self.settings.edge.model])]
        return choices(self.here.models, self._used)

    async def change(self, change: SettingsChange) -> None:
        """Apply a change and keep it in the settings file. Where either fails nothing has changed.

        The caller holds the lock. Raises NearfarError.
        """
        change = self._with_model(change)
        policy = replace(self.settings.policy, learn=change.learn or self.settings.policy.learn)
        wanted = replace(self.settings, edge=_edge(self.settings.edge, change), policy=policy)
        find_model(wanted.edge.model, self.here.models)  # before the old engine is let go
        before, before_private, said_private = self.settings, self.privacy, self._said()
        if change.private is False and self.preset().privacy is Privacy.LOCAL_ONLY:
            raise RequestError("the preset keeps everything here; choose another preset first")
        if change.private is not None:
            # First of all: where it is on, nothing leaves while the rest is done.
            self._keep_privacy(Privacy.LOCAL_ONLY if change.private else Privacy.ASK)
        self.settings = wanted
        try:
            # One that was opened where learning was off has no learner.
            learns_anew = change.learn == "on" and before.policy.learn == "off"
            same = self.privacy is before_private and _runs(wanted) == _runs(before)
            if learns_anew or not same:
                await self._renew()
            self._keep(change)
            note_use(wanted.edge.model, self.here.models)
        except BaseException:  # whatever it was: without its engine the page could do nothing more
            self.settings = before
            if change.private is not None:
                self._keep_privacy(said_private)
            if change.learn is not None:
                self._keep_learning(before.policy.learn)
            await self._renew()
            raise

    async def reload_clouds(self) -> None:
        """Use the clouds that the settings file names now. The caller holds the lock."""
        before = self.settings
        self.settings = replace(before, cloud=load(self.here.config_file).cloud)
        try:
            await self._renew()
        except BaseException:  # without its engine the page could do nothing more
            self.settings = before
            await self._renew()
            raise

    def _with_model(self, change: SettingsChange) -> SettingsChange:
        """Return a change of the preset with the model that it asks for. Raises WrongUsage."""
        if not change.preset or change.model is not None:
            return change
        model = preset_of(change.preset, self.presets_file).model
        return msgspec.structs.replace(change, model=model or None)

    async def _renew(self) -> None:
        # A page that looks meanwhile, or after a model that was none, asks no closed engine.
        if self._before is None:
            with contextlib.suppress(NearfarError):  # of a damaged file of presets
                self._before = self.status()
        await self.engine.aclose()
        # Loading a model takes seconds, in which other requests are not to wait.
        self.engine = await asyncio.to_thread(self._make)
        self._before = None

    def _keep(self, change: SettingsChange) -> None:
        said = {name: value for name, value in _edge_values(change).items() if value is not None}
        if said:
            change_settings(self.here.config_file, "edge", said)
        if change.learn is not None:
            self._keep_learning(change.learn)
            if load(self.here.config_file).policy.learn != change.learn:
                raise SettingsError(
                    "NEARFAR_POLICY_LEARN goes before what is chosen here; start the assistant "
                    "without it"
                )

    def _keep_learning(self, learn: str) -> None:
        change_settings(self.here.config_file, "policy", {"learn": learn})

    def _keep_privacy(self, privacy: Privacy) -> None:
        change_settings(self.here.config_file, "policy", {"privacy": privacy.value})
        if self._said() is not privacy:
            raise SettingsError(
                f"NEARFAR_POLICY_PRIVACY says {self._said().value}, and goes before what is chosen "
                "here; start the assistant without it"
            )

    async def forget(self, conversation: str, store: Conversations) -> None:
        """Delete a conversation everywhere on this device."""
        await forget(conversation, store, self.engine, self.here.cache / "sessions")

    async def aclose(self) -> None:
        """Close the engine."""
        await self.engine.aclose()


def _runs(settings: Settings) -> Settings:
    """Return the settings without what needs no other engine."""
    policy = replace(settings.policy, learn="ask")
    return replace(settings, edge=replace(settings.edge, preset=""), policy=policy)


def _edge_values(change: SettingsChange) -> dict[str, Any]:
    known = {each.name for each in fields(EdgeSettings)}
    return {name: value for name, value in msgspec.structs.asdict(change).items() if name in known}


def _edge(settings: EdgeSettings, change: SettingsChange) -> EdgeSettings:
    said = {name: value for name, value in _edge_values(change).items() if value is not None}
    if said.get("model") == "":
        raise RequestError("the model's name is empty; choose one of the list")
    return replace(settings, **said)


class CurrentEngine(ForwardsTokenizing):
    """Engine that stands for the current one: another after a change of settings.

    What its owner must not interrupt is counted in `num_running`.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self.num_running = 0

    def card(self) -> ModelCard:
        """Return what the engine runs now."""
        return self._engine().card()

    def names(self) -> tuple[str, ...]:
        """Return every name the engine answers to now."""
        engine = self._engine()
        return engine.names() if isinstance(engine, Named) else (engine.card().name,)

    def may_replace(self, request: Request) -> bool:
        """Whether text of this request's answer may be withdrawn later."""
        engine = self._engine()
        return isinstance(engine, Routing) and engine.may_replace(request)

    def generate(self, request: Request) -> AnswerStream:
        """Stream the answer; see Engine."""
        return self._counted(lambda engine: engine.generate(request))

    def settling(self, request: Request) -> AnswerStream:
        """Stream the answer for a reader who cannot take text back; see Routing."""
        return self._counted(lambda engine: settling(engine, request))

    async def _counted(self, start: Callable[[Engine], AnswerStream]) -> AnswerStream:
        self.num_running += 1
        try:
            async with aclosing(start(self._engine())) as items:
                async for item in items:
                    yield item
        finally:
            self.num_running -= 1

    def in_use(self, keep_alive_s: float | None = None) -> AbstractAsyncContextManager[object]:
        """Hold the near model in memory while the block lasts. See OnDemand."""
        return held_in_memory(self._engine(), keep_alive_s)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text. See Embedding."""
        engine = self._engine()
        if not isinstance(engine, Embedding):
            raise Unsupported("the near model makes no embeddings; choose a GGUF file for it")
        return await engine.embed(texts)

    def _tokenizing(self) -> Tokenizing:
        engine = self._engine()
        if not isinstance(engine, Tokenizing):
            raise Unsupported("the near model's engine cannot tokenize text; choose another model")
        return engine

    async def aclose(self) -> None:
        """Close nothing: the engine is another's."""
