"""The command: mounts each room's commands, and turns every error into one line."""

from __future__ import annotations

import errno
import functools
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, NoReturn

import typer

from backbone.errors import NearfarError, WrongUsage, cause
from backbone.terminal_text import clean_logs, echo, echo_json
from edge.cli import ASKING, DEVICE

if TYPE_CHECKING:
    from offload.engine import Engine

FAR, PREPARING = "The far side", "Measure and prepare"
_INTERRUPTED = 130  # what shells call Ctrl-C: 128 and the signal's number


def _of(module: str, name: str = "app") -> Callable[[], typer.Typer]:
    def declared() -> typer.Typer:
        app: typer.Typer = getattr(importlib.import_module(module), name)
        return app

    return declared


def _cloud() -> typer.Typer:
    from cloud.cli import build

    return build(open_http=_http_face)


def _config() -> typer.Typer:
    from offload.commands import config

    config.CHECKS |= {"edge.model": _found, "edge.draft_model": _found, "edge.preset": _kept_preset}
    return config.config_app


def _found(model: str) -> str:
    """Return a model's name as a setting keeps it. Raises CheckpointError where none is meant."""
    from edge.models.local_models import as_setting
    from offload.config.places import places

    return as_setting(model, places().models) if model else ""


def _kept_preset(name: str) -> str:
    """Return a preset's name. Raises WrongUsage where there is none of it."""
    from edge.chat.presets import preset_of
    from offload.config.places import places

    if name:
        preset_of(name, places().presets)
    return name


def _policy() -> typer.Typer:
    import edge.bench.cli  # noqa: F401 - adds the commands that ask a near model questions
    from offload.commands.policy import policy_app

    return policy_app


class Room(NamedTuple):
    """Commands that one module declares: a group under its one name, or each under its own."""

    declared: Callable[[], typer.Typer]
    names: tuple[str, ...]
    panel: str | None = None  # where `nearfar --help` shows a group


# In the order of `nearfar --help`.
ROOMS = (
    Room(_of("edge.cli"), ("ask", "chat", "assistant", "doctor")),
    Room(_of("edge.short_commands"), ("pull", "list", "rm", "run", "ps", "stop")),
    Room(_of("edge.conversations.cli", "conversations_app"), ("conversations",), ASKING),
    Room(_of("edge.chat.presets_cli", "presets_app"), ("presets",), ASKING),
    Room(_of("edge.documents.cli", "documents_app"), ("documents",), ASKING),
    Room(_of("edge.documents.cli", "embed_app"), ("embed",)),
    Room(_of("edge.models.cli", "models_app"), ("models",), DEVICE),
    Room(_config, ("config",), DEVICE),
    Room(_policy, ("policy",), FAR),
    Room(_of("offload.commands.link", "link_app"), ("link",), FAR),
    Room(_cloud, ("cloud",), FAR),
    Room(_of("nearfar_serving"), ("serve", "up")),  # last of those in its group that answer
    Room(_of("edge.bench.cli", "bench_app"), ("bench",), PREPARING),
    Room(_of("quantize.cli"), ("quantize",), PREPARING),
)


def _http_face(engine: Engine, address: str) -> AbstractAsyncContextManager[str]:
    from offload.config.places import places
    from offload.config.settings_reading import load
    from serve.batch.face import face_with_batches

    here = places()
    return face_with_batches(engine, load(here.config_file), address, here.batches)


def app_of(*rooms: Room) -> typer.Typer:
    """Return the command with the commands of some rooms alone."""
    app = typer.Typer(
        name="nearfar",
        help="Run a language model near, and ask one far away only when that pays.",
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    for room in rooms:
        if room.panel is None:
            app.add_typer(room.declared())
        else:
            app.add_typer(room.declared(), name=room.names[0], rich_help_panel=room.panel)
    app.callback(invoke_without_command=True)(nearfar)
    return app


@functools.cache
def whole_app() -> typer.Typer:
    """Return the command with the commands of all rooms."""
    return app_of(*ROOMS)


def app_for(words: Sequence[str]) -> typer.Typer:
    """Return what runs a command line: preparing fifty commands for one takes a tenth of a second.

    Help, completion and unknown commands need all of them.
    """
    for room in ROOMS:
        if words and words[0] in room.names:
            return app_of(room)
    return whole_app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        echo(f"nearfar {version('nearfar')}")
        raise typer.Exit


def nearfar(
    context: typer.Context,
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Run a language model near, and ask one far away only when that pays."""
    if context.invoked_subcommand is None:
        from edge.chat.welcome import greeting

        echo(greeting())


def main() -> None:
    """Run the command; whatever stops it becomes one line and status 1, or 2 for wrong usage."""
    _suit_the_system()
    _end_as_by_ctrl_c()
    try:
        app_for(sys.argv[1:])()
    except WrongUsage as error:
        _fail(str(error), status=2)
    except NearfarError as error:
        _fail(str(error))
    except OSError as error:
        _fail(_out_of_reach(error))
    except UnicodeError as error:
        _fail(
            f"a name or a text is not UTF-8 ({_spelt(error)}); rename the file, or write it anew",
            status=2,
        )
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        if _was_interrupted(error):
            sys.exit(_INTERRUPTED)
        if os.environ.get("NEARFAR_TRACE"):
            raise
        _fail(
            f"this is a fault of nearfar itself ({type(error).__name__}: {cause(error)}); "
            "set NEARFAR_TRACE=1 to see where, and report that"
        )


def _end_as_by_ctrl_c() -> None:
    """Let the signals of service managers and closed terminals unwind the command, too.

    What it has begun to write is then removed, as after Ctrl-C; what is ignored (nohup) stays so.
    """

    def leave(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def _spelt(error: UnicodeError) -> str:
    given = getattr(error, "object", "")
    return repr(given[:60] if isinstance(given, str | bytes) else str(error))


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a class that was being made wraps it in one of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _suit_the_system() -> None:
    """Read and write what every language needs; on Windows take the loop that ZeroMQ can wake."""
    clean_logs()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a log may hold any bytes
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper) or "utf" in stream.encoding.lower():
            continue
        # A terminal shows what it can; what a program reads is UTF-8 everywhere.
        if stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8")
    if sys.platform == "win32":
        import asyncio

        # The other loop of Windows watches no sockets by their number, as the link needs.
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())


def _out_of_reach(error: OSError) -> str:
    """Say what a file's disk or permissions, or the system, stood in the way of."""
    from offload.config.places import places

    here, reason = places(), cause(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({reason}); free some, or set NEARFAR_HOME to another"
    if error.filename is None:
        return f"the system says no ({reason}); end other programs, and try again"
    file = Path(os.fsdecode(error.filename))
    folders = (here.config, here.data, here.cache)
    if any(each in (file, *file.parents) or file in each.parents for each in folders):
        from offload.config.obstacles import obstacle

        return f"{file} cannot be used: {obstacle(file, error)}"
    return f"{file} cannot be used ({reason}); mend its folder or permissions, or name another"


def _fail(message: str, *, status: int = 1) -> NoReturn:
    message = " ".join(message.split())  # a library's words may have line breaks
    if "--json" in sys.argv:
        echo_json(json.dumps({"error": message}))
    echo(f"nearfar: {message}", err=True)
    sys.exit(status)
