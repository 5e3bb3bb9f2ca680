"""Places of files: the system's own folders, or all under NEARFAR_HOME if that is set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backbone.files import expanded


@dataclass(frozen=True, kw_only=True)
class Places:
    """Places of one person's folders and files; deleting `cache` loses nothing."""

    config: Path
    data: Path
    cache: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def presets(self) -> Path:
        return self.config / "presets.json"

    @property
    def tool_servers(self) -> Path:
        return self.config / "mcp.json"

    @property
    def keys(self) -> Path:
        return self.data / "keys"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def policies(self) -> Path:
        return self.data / "policies"

    @property
    def learning(self) -> Path:
        return self.data / "learning"

    @property
    def conversations(self) -> Path:
        return self.data / "conversations.sqlite"

    @property
    def indexes(self) -> Path:
        return self.data / "indexes"

    @property
    def attached(self) -> Path:
        return self.data / "attached"

    @property
    def kv_losses(self) -> Path:
        return self.cache / "kv_losses.json"

    @property
    def ledger(self) -> Path:
        return self.data / "ledger.sqlite"

    @property
    def batches(self) -> Path:
        return self.data / "batches"

    @property
    def outbox(self) -> Path:
        return self.data / "outbox" / "waiting.json"


def places() -> Places:
    """Return this person's folders; none of them is created here."""
    home = os.environ.get("NEARFAR_HOME")
    if home:
        root = expanded(home)
        return Places(config=root / "config", data=root / "data", cache=root / "cache")
    # Imported here: only a real person's command needs it, and not for --help.
    from platformdirs import PlatformDirs

    dirs = PlatformDirs("nearfar", appauthor=False)
    return Places(
        config=dirs.user_config_path, data=dirs.user_data_path, cache=dirs.user_cache_path
    )
