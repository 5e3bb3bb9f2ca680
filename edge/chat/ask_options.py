"""Options of `nearfar ask` and `chat`, each declared once: its flag, its default and its help."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

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
    Preset,
    Seed,
    System,
    Temperature,
    Window,
)

if TYPE_CHECKING:
    from edge.chat import presets
    from edge.near.factory import RunFlags
    from offload.config.settings import Settings
    from offload.messages import Privacy, Sampling

# Nothing heavier than this at the top: `nearfar --help` must answer at once.


DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Options of `ask` and `chat`. Raises WrongUsage for those that make no sense."""

    preset: Preset = None
    model: Model = None
    system: System = None
    offline: Offline = False
    local_only: LocalOnly = False
    far: Far = False
    cloud: OldFar = False
    files: Files = None
    max_tokens: MaxTokens = DEFAULT_MAX_TOKENS
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
            self._over(None)

    def sampling(self, by_default: float | None) -> Sampling:
        """Return how tokens are chosen: by the flags, else the preset, else `by_default`, the
        settings' temperature.
        """
        return self._over(self.chosen_preset()).sampling(by_default, max_tokens=self.max_tokens)

    def _over(self, preset: presets.Preset | None) -> presets.Preset:
        """Return a preset with the flags over it, all that is drawn checked."""
        from edge.chat.presets import Preset

        is_given = self.max_tokens != DEFAULT_MAX_TOKENS
        flags = {
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens if is_given else None,
        }
        said = {name: value for name, value in flags.items() if value is not None}
        return msgspec.structs.replace(preset or Preset(), **said)

    def chosen_preset(self) -> presets.Preset | None:
        """Return the preset that is named, else the settings' own. Raises WrongUsage."""
        from edge.chat.presets import preset_of
        from offload.config.places import places
        from offload.config.settings_reading import load

        here = places()
        name = load(here.config_file).edge.preset if self.preset is None else self.preset
        return preset_of(name, here.presets) if name else None

    def persona(self) -> str:
        """Return the system prompt; empty for none."""
        preset = self.chosen_preset() if self.system is None else None
        return self.system or (preset.system if preset else "")

    def privacy(self) -> Privacy:
        """Return the privacy class of what is asked: by the one rule of offload's Allowed."""
        from offload.config.places import places
        from offload.egress.permission import LivePermission

        allowed = LivePermission(places().config_file)()
        of = allowed.class_of_documents if self.files else allowed.class_of_text
        return self.at_least(of(attended=is_attended()))

    def at_least(self, privacy: Privacy) -> Privacy:
        """Return a class, or a stricter one that the flags or the preset ask for."""
        from offload.egress.privacy.shareable_part import strictest
        from offload.messages import Privacy

        preset = self.chosen_preset()
        asked = preset.privacy if preset and preset.privacy else privacy
        return strictest(privacy, asked, Privacy.LOCAL_ONLY if self.local_only else asked)

    def settings(self) -> Settings:
        """Return the settings with the flags over them. Raises SettingsError, WrongUsage."""
        from offload.config.places import places
        from offload.config.settings_reading import load

        loaded, preset = load(places().config_file), self.chosen_preset()
        flags = {
            "model": self.model or (preset.model if preset else "") or None,
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
