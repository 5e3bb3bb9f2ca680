"""Options of `nearfar ask` and `chat`, each declared once: its flag, its default and its help."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backbone.errors import WrongUsage, as_typed
from backbone.terminal_text import readable
from edge.near.flags import (
    Draft,
    Far,
    Files,
    Kv,
    LocalOnly,
    Lora,
    MaxTokens,
    Model,
    Offline,
    OldFar,
    Seed,
    System,
    Temperature,
    Window,
)

if TYPE_CHECKING:
    from edge.near.factory import RunFlags
    from offload.config.settings import Settings
    from offload.messages import Privacy, Sampling

# Nothing heavier than this at the top: `nearfar --help` must answer at once.


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Options of `ask` and `chat`. Raises WrongUsage for those that make no sense."""

    model: Model = None
    system: System = None
    offline: Offline = False
    local_only: LocalOnly = False
    far: Far = False
    cloud: OldFar = False
    files: Files = None
    max_tokens: MaxTokens = 1024
    temperature: Temperature = None  # None: as the settings say, or the model's own files
    seed: Seed = None
    window: Window = None
    kv: Kv = None
    draft: Draft = None
    lora: Lora = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "far", self.far or self.cloud)
        object.__setattr__(self, "system", readable(self.system) if self.system else None)
        if self.far and (self.offline or self.local_only):
            other = "--offline" if self.offline else "--local-only"
            raise WrongUsage(f"--far and {other} contradict each other; leave one out")
        with as_typed():
            self.sampling(None)

    def sampling(self, by_default: float | None) -> Sampling:
        """Return how tokens are chosen; `by_default` is the settings' temperature."""
        from offload.messages import sampling_at

        given = by_default if self.temperature is None else self.temperature
        return sampling_at(given, max_tokens=self.max_tokens, seed=self.seed)

    def privacy(self) -> Privacy:
        """Return the privacy class of what is asked: by the one rule of Allowed.class_of_text."""
        from offload.config.places import places
        from offload.egress.permission import LivePermission
        from offload.messages import Privacy

        if self.local_only:
            return Privacy.LOCAL_ONLY
        return LivePermission(places().config_file)().class_of_text(attended=is_attended())

    def settings(self) -> Settings:
        """Return the settings with the flags over them. Raises SettingsError, WrongUsage."""
        from offload.config.places import places
        from offload.config.settings_reading import load

        loaded = load(places().config_file)
        flags = {
            "model": self.model,
            "window": self.window,
            "kv_cache_dtype": self.kv,
            "draft_model": self.draft,
            "lora": ",".join(self.lora or ()) or None,
        }
        said = {name: value for name, value in flags.items() if value is not None}
        with as_typed():
            return replace(loaded, edge=replace(loaded.edge, **said))  # type: ignore[arg-type]

    def choice(self) -> RunFlags:
        """Return the flags of this run; at a terminal a person is asked for consent."""
        from edge.chat.consent import ConsentPrompt, consent_at_terminal
        from edge.near.factory import RunFlags
        from edge.near.previewing import previewer
        from offload.config.places import places

        ask = consent_at_terminal(previewer(places()))
        return RunFlags(
            offline=self.offline,
            forced="cloud" if self.far else None,
            shared=True,
            consent=ConsentPrompt(ask, places()) if is_attended() else None,
        )


def is_attended() -> bool:
    """Whether a person sits here who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
