"""Settings of a device, section by section, each checked where it is built.

How they are read from a file and from variables is told in offload/config/settings_reading.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from offload.aims import LISTED, parse_aim
from offload.config.addresses import (
    is_link_address,
    is_loopback_web_address,
    is_web_address,
)
from offload.durations import seconds_of
from offload.egress.privacy.findings import RULES, Rules
from offload.errors import RequestError, SettingsError
from offload.messages import Privacy

UPSTREAM_SCHEMES = ("http", "https")
HANDOVERS = ("replace", "continue")
PRIVATE_TURNS = ("leave_out", "keep_near")
LEARN = ("ask", "on", "off")
ACTIONS = ("near", "check", "lend", "ask")
MIN_WINDOW = 16
MAX_TOKENS = 16_777_216  # of a context, or of what of it is kept: more than any model has
# KV cache types: llama.cpp's, which may be named for keys and values apart, and torch's.
KV_STORED = ("f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
KV_NAMES = ("auto", *KV_STORED, "k8v4", "int8", "int4", "int2")
# What either runtime takes; one that takes less says so when the model is loaded.
_EDGE_BOUNDS = {
    "num_threads": (0, 1024),
    "max_num_batched_tokens": (1, 65_536),
    "num_gpu_layers": (-1, 10_000),
    "num_sinks": (0, 1024),
    "kv_keep": (0, MAX_TOKENS),
    "max_num_seqs": (0, 256),
    "max_draft_tokens": (-1, 64),
    "max_model_len": (0, MAX_TOKENS),
    "session_budget_mb": (0, 1 << 30),
}


_SERVE_LEAST = {
    "max_running": 1,
    "max_queued": 0,
    "requests_per_s": 0,
    "tokens_per_s": 0,
    "requests_per_day": 0,
    "tokens_per_day": 0,
}


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """Settings of the near model: "embedded", which ships with nearfar, or a GGUF file's path."""

    model: str = "embedded"
    server: str = ""  # a llama-server on this machine as the near engine, http://127.0.0.1:8081
    max_model_len: int = 0  # 0: what the model was trained for
    num_threads: int = 0  # 0: chosen from the cores that are free
    max_num_batched_tokens: int = 512  # of a prompt, evaluated at once
    num_gpu_layers: int = -1  # on the GPU, if there is one; -1: as many as fit, 0: none
    kv_cache_dtype: str = "auto"  # of KV_NAMES, or K/V apart as q8_0/q4_0
    window: int = -1  # newest tokens kept when the context is full; -1: all that fit, 0: refuse
    num_sinks: int = 4  # first tokens that are kept with them
    kv_keep: int = 0  # of a prompt's, by what its end attends to, in folders; 0: all
    max_num_seqs: int = 0  # answers written at once; 0: four for `nearfar serve`, else one
    max_draft_tokens: int = -1  # guessed from earlier text at once; 0: off, -1: what pays, of GGUF
    draft_model: str = ""  # a smaller GGUF of the same vocabulary that guesses, too; "": none
    lora: str = ""  # adapters of a GGUF model, FILE or FILE:SCALE, with commas between them
    preset: str = ""  # of `nearfar presets`, for ask, chat and page where none is named
    temperature: float | None = None  # of chat, page, ask and serve; None: as the model's files say
    use_mmap: bool = True  # a GGUF file is mapped; false: read into memory, so it may be replaced
    keep_alive: str = "5m"  # in memory after an answer, where loaded on demand; -1: for ever
    use_service: bool = True  # `ask` and `chat` use the model of `nearfar up` where that runs
    keep_sessions: bool = True  # the KV cache of conversations, on disk until the next start
    session_budget_mb: int = 1024

    def __post_init__(self) -> None:
        if self.window not in (-1, 0) and not MIN_WINDOW <= self.window <= MAX_TOKENS:
            raise SettingsError(
                f"edge.window is {self.window}; it must be -1, 0, or from {MIN_WINDOW} to "
                f"{MAX_TOKENS}"
            )
        if self.temperature is not None and not 0.0 <= self.temperature <= 5.0:
            raise SettingsError(f"edge.temperature is {self.temperature}; it must be from 0 to 5")
        for name, (low, high) in _EDGE_BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise SettingsError(
                    f"edge.{name} is {getattr(self, name)}; it must be from {low} to {high}"
                )
        self._check_kv()
        seconds_of(self.keep_alive, "edge.keep_alive")
        if self.server and not is_loopback_web_address(self.server):
            raise SettingsError(
                f"edge.server is {self.server!r}; it must be an address of this machine, as in "
                "http://127.0.0.1:8081, since its text must not leave; others are a cloud.url"
            )

    def _check_kv(self) -> None:
        apart = self.kv_cache_dtype.split("/")
        if self.kv_cache_dtype in KV_NAMES or (len(apart) == 2 and set(apart) <= set(KV_STORED)):
            return
        raise SettingsError(
            f"edge.kv_cache_dtype is {self.kv_cache_dtype!r}; it must be one of "
            f"{', '.join(KV_NAMES)}, or two of a GGUF file's for K and V, as q8_0/q4_0"
        )


@dataclass(frozen=True, kw_only=True)
class CloudSettings:
    """Settings of the far side: one address of our link, several with commas, or none.

    Or the base URL of an OpenAI-compatible server, http(s)://.../v1; `model` and `api_key` are
    for that.

    With several addresses, `server_key` has as many keys in the same order, or is empty; a key may
    be left out for a cloud on this machine.
    """

    url: str = ""
    server_key: str = ""  # the cloud's public CURVE key, as `nearfar cloud serve` prints it
    connect_timeout_s: float = 2.0
    model: str = ""  # the first that the server lists unless set
    api_key: str = field(default="", repr=False)
    sees: str = "auto"  # pictures: yes, no, or auto, as the server says of its model (few do)

    @property
    def sees_pictures(self) -> bool | None:
        """Whether the server's model sees pictures; None where the server is to say."""
        return {"yes": True, "no": False}.get(self.sees)

    @property
    def is_upstream(self) -> bool:
        """Whether the far side is an OpenAI-compatible server rather than our own link."""
        return urlsplit(self.url).scheme in UPSTREAM_SCHEMES and "," not in self.url

    def __post_init__(self) -> None:
        for url, _ in self.clouds:
            if not (is_web_address if self.is_upstream else is_link_address)(url):
                raise SettingsError(
                    f"cloud.url is {url!r}; it must be tcp://HOST:PORT, as in "
                    "tcp://127.0.0.1:7070, or ipc://PATH, or one http(s)://HOST/v1"
                )
        for key in _in_order(self.server_key):
            if key and len(key) != 40:
                raise SettingsError(
                    f"cloud.server_key has {len(key)} characters; "
                    "a key has 40, as `nearfar cloud serve` prints it"
                )
        if self.sees not in ("auto", "yes", "no"):
            raise SettingsError(f"cloud.sees is {self.sees!r}; it must be one of auto, yes, no")
        if not 0.05 <= self.connect_timeout_s <= 600:
            raise SettingsError(
                f"cloud.connect_timeout_s is {self.connect_timeout_s}; it must be 0.05 to 600"
            )

    @property
    def clouds(self) -> tuple[tuple[str, str], ...]:
        """Return each cloud's address and its public key, which may be empty.

        Raises SettingsError where there are keys, and not as many as addresses.
        """
        urls, keys = _in_order(self.url), _in_order(self.server_key)
        keys = keys or ("",) * len(urls)
        if urls and len(urls) != len(keys):
            raise SettingsError(
                f"cloud.url has {len(urls)} addresses and cloud.server_key {len(keys)} keys; "
                "give one for each, in the same order"
            )
        return tuple(zip(urls, keys, strict=False))


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Settings of the policy: when text may leave, and how unsure the near model must be."""

    offline: bool = False
    privacy: Privacy = Privacy.CLOUD_OK
    private_turns: str = "leave_out"  # of what leaves; or "keep_near": the whole conversation stays
    min_logprob: float | None = None  # None: as calibrated for the model
    aim: str = "auto"  # what is asked for where no model is named: auto, auto-q95, auto-b20, ...
    min_gain: float | None = None  # how much likelier right the cloud must be; None: calibrated
    exploration: float = 0.0  # how often the other side is tried, to learn from it; at most 0.5
    actions: str = "near, ask"  # what may be chosen: also check and lend (docs/policy.md)
    learn: str = "ask"  # from far answers, in use: on, off, or ask once at a terminal or page
    handover: str = "replace"  # of a doubted near answer; "continue": from its unfinished text
    rescue: str = "continue"  # where a side dies, go on from its text; "replace": begin anew
    price_in: float = 0.0  # of a million tokens that the cloud reads, in any currency
    price_out: float = 0.0  # of a million tokens that it writes
    worth: float = 0.0  # of a right answer, in the same currency; 0: prices only count as cost
    max_cost_per_day: float = 0.0  # in the same currency; 0: no limit, here and below
    max_tokens_per_day: int = 0  # read and written by the cloud
    max_bytes_per_day: int = 0  # sent to it
    spare_device: bool = False  # on battery, hot or short of memory: far where it may
    keep_content: bool = False  # the ledger keeps what left; else only its size and digest
    ledger_max_mb: int = 64

    def __post_init__(self) -> None:
        for name in ("max_cost_per_day", "max_tokens_per_day", "max_bytes_per_day"):
            if not 0 <= getattr(self, name) < 1e18:
                raise SettingsError(f"policy.{name} is {getattr(self, name)}; it must be 0 or more")
        if not 1 <= self.ledger_max_mb <= 1_000_000:
            raise SettingsError(
                f"policy.ledger_max_mb is {self.ledger_max_mb}; it must be from 1 to 1000000"
            )
        self._check_aim()
        chosen = set(_listed(self.actions))
        # A check only decides whether the far model is asked.
        if not {"near"} < chosen <= set(ACTIONS) or ("check" in chosen and "ask" not in chosen):
            raise SettingsError(
                f'policy.actions is {self.actions!r}; it must be "near, ask", with check or lend '
                'between them, or "near, lend"'
            )
        for name in ("handover", "rescue"):
            if (way := getattr(self, name)) not in HANDOVERS:
                raise SettingsError(
                    f"policy.{name} is {way!r}; it must be {' or '.join(HANDOVERS)}"
                )
        if self.learn not in LEARN:
            raise SettingsError(
                f"policy.learn is {self.learn!r}; it must be {', '.join(LEARN[:-1])} or {LEARN[-1]}"
            )
        if self.private_turns not in PRIVATE_TURNS:
            raise SettingsError(
                f"policy.private_turns is {self.private_turns!r}; it must be "
                f"{' or '.join(PRIVATE_TURNS)}"
            )
        if not 0.0 <= self.exploration <= 0.5:
            raise SettingsError(
                f"policy.exploration is {self.exploration}; it must lie from 0 to 0.5"
            )
        if self.min_gain is not None and not -1.0 <= self.min_gain <= 1.0:
            raise SettingsError(f"policy.min_gain is {self.min_gain}; it must lie from -1 to 1")
        for name in ("price_in", "price_out", "worth"):
            if not 0.0 <= getattr(self, name) < 1e12:
                raise SettingsError(f"policy.{name} is {getattr(self, name)}; it must be 0 or more")
        if self.min_logprob is not None and not self.min_logprob <= 0:
            raise SettingsError(
                f"policy.min_logprob is {self.min_logprob}; it must be a number of 0 or less"
            )

    @property
    def learns(self) -> bool:
        """Whether the policy is learnt in use; never where texts are kept private."""
        return self.learn == "on" and self.privacy is not Privacy.LOCAL_ONLY

    @property
    def asks_to_learn(self) -> bool:
        """Whether a person is still to be asked; never where texts are kept private."""
        return self.learn == "ask" and self.privacy is not Privacy.LOCAL_ONLY

    @property
    def chosen_actions(self) -> frozenset[str]:
        """Return what the policy may choose (policy.actions)."""
        return frozenset(_listed(self.actions))

    def _check_aim(self) -> None:
        try:
            parse_aim(self.aim)
        except RequestError:
            raise SettingsError(
                f"policy.aim is {self.aim!r}; it must be one of {', '.join(LISTED)}, "
                "with any number from 0 to 100 behind q, b and w"
            ) from None


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """Settings of redaction: what is done with findings: block, redact, allow or ask."""

    secret: str = "redact"
    card: str = "redact"
    iban: str = "redact"
    national_id: str = "redact"
    email: str = "redact"
    phone: str = "redact"
    name: str = "redact"
    address: str = "redact"
    ip: str = "allow"
    path: str = "allow"
    entity: str = "allow"  # persons and places that are on no list: found by a small recogniser
    names: str = ""  # of people, firms, projects; with commas between them
    countries: str = ""  # whose telephone numbers need no code: US,DE; empty: thirty large ones

    def __post_init__(self) -> None:
        self.rules()

    def rules(self) -> Rules:
        """Return the rules that these settings say. Raises SettingsError."""
        said: dict[str, Any] = {rule: getattr(self, rule) for rule in RULES}
        return Rules(names=_listed(self.names), countries=_listed(self.countries), **said)


@dataclass(frozen=True, kw_only=True)
class DocumentSettings:
    """Settings of attached documents and folders: how much of them goes into a question."""

    embedding_model: str = ""  # a GGUF file that finds passages by meaning, too; "": by words alone
    whole_tokens: int = 8000  # a document of up to so many goes in whole; 0: passages always
    quoted_tokens: int = 2000  # of the passages of longer ones, for each question

    def __post_init__(self) -> None:
        for name, least in (("whole_tokens", 0), ("quoted_tokens", 100)):
            if not least <= getattr(self, name) <= MAX_TOKENS:
                raise SettingsError(
                    f"documents.{name} is {getattr(self, name)}; it must be from {least} to "
                    f"{MAX_TOKENS}"
                )


@dataclass(frozen=True, kw_only=True)
class ToolSettings:
    """Tools that chat and page offer the model, each call of which is asked about; none by default.

    Those of MCP servers are in mcp.json beside the settings (edge/tools/server_list.py).
    """

    time: bool = False  # the date and the time, here or in another zone
    files: str = ""  # a folder whose files the model may list and read


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The HTTP face of `nearfar serve`; checked where it is opened (serve/options.py)."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    api_keys: str = ""  # KEY or name:KEY, with commas between them; needed off loopback
    origins: str = ""  # of pages in browsers that may ask, as https://there:8000, with commas
    tls_cert: str = ""
    tls_key: str = ""
    max_running: int = 256  # requests handed to the engine at the same time
    max_queued: int = 64  # requests of one key that may wait for their turn
    requests_per_s: float = 0.0  # of one key; 0 is no limit, here and below
    tokens_per_s: float = 0.0
    requests_per_day: int = 0
    tokens_per_day: int = 0
    link_keys: str = ""  # a file with the link's key pair, such as a mounted secret
    log: str = ""  # a line on stderr for each request, as "json" or "text"
    clients_change_models: bool = False  # ollama's /api/pull and /api/delete of `nearfar up`

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"serve.port is {self.port}; it must be from 0 to 65535")
        for name, least in _SERVE_LEAST.items():
            if not least <= getattr(self, name) < 1e18:
                raise SettingsError(
                    f"serve.{name} is {getattr(self, name)}; it must be {least} or more"
                )
        if self.log not in ("", "json", "text"):
            raise SettingsError(f"serve.log is {self.log!r}; it must be json, text or nothing")


@dataclass(frozen=True, kw_only=True)
class QuotaSettings:
    """Quotas of each device at this machine, where it is a cloud; 0 is no limit."""

    requests_per_s: float = 0.0  # on average; a minute's worth may come at once
    tokens_per_s: float = 0.0  # read and written
    requests_per_day: int = 0  # of UTC, here and below
    tokens_per_day: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 <= value < 1e18:
                raise SettingsError(f"quota.{each.name} is {value}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of the device."""

    edge: EdgeSettings = field(default_factory=EdgeSettings)
    cloud: CloudSettings = field(default_factory=CloudSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    documents: DocumentSettings = field(default_factory=DocumentSettings)
    tools: ToolSettings = field(default_factory=ToolSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    quota: QuotaSettings = field(default_factory=QuotaSettings)


def _in_order(text: str) -> tuple[str, ...]:
    # Empty parts stay, since each stands for something at the same place of another list.
    return tuple(part.strip() for part in text.split(",")) if text.strip() else ()


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
