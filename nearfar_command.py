"""The command: mounts each room's commands, and turns every error into one line."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import cloud.cli
import edge.bench.cli
import edge.cli
import edge.conversations.cli
import edge.models.cli
import edge.short_commands
import nearfar_serving
import offload.commands.config
import offload.commands.link
import offload.commands.policy
import quantize.cli
from backbone.errors import NearfarError, WrongUsage, cause
from backbone.terminal_text import clean_logs, echo, echo_json
from edge.cli import ASKING, DEVICE
from offload.commands.link import FAR

if TYPE_CHECKING:
    from offload.engine import Engine

PREPARING = "Measure and prepare"
_INTERRUPTED = 130  # what shells call Ctrl-C: 128 and the signal's number

app = typer.Typer(
    name="nearfar",
    help="Run a language model near, and ask one far away only when that pays.",
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(edge.cli.app)
app.add_typer(edge.short_commands.app)
app.add_typer(
    edge.conversations.cli.conversations_app, name="conversations", rich_help_panel=ASKING
)
app.add_typer(edge.models.cli.models_app, name="models", rich_help_panel=DEVICE)
app.add_typer(offload.commands.config.config_app, name="config", rich_help_panel=DEVICE)
app.add_typer(offload.commands.policy.policy_app, name="policy", rich_help_panel=FAR)
app.add_typer(offload.commands.link.link_app, name="link", rich_help_panel=FAR)


def _http_face(engine: Engine, address: str) -> AbstractAsyncContextManager[str]:
    from offload.config.places import places
    from offload.config.settings_reading import load
    from serve.cli import face_at

    return face_at(engine, load(places().config_file), address)


app.add_typer(cloud.cli.build(open_http=_http_face), name="cloud", rich_help_panel=FAR)
app.add_typer(nearfar_serving.app)  # last of those in its group that answer
app.add_typer(edge.bench.cli.bench_app, name="bench", rich_help_panel=PREPARING)
app.add_typer(quantize.cli.app, name="quantize", rich_help_panel=PREPARING)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        echo(f"nearfar {version('nearfar')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
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
        app()
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
    told = getattr(error, "object", "")
    return repr(told[:60] if isinstance(told, str | bytes) else str(error))


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


def _fail(told: str, *, status: int = 1) -> NoReturn:
    told = " ".join(told.split())  # a library's words may have line breaks
    if "--json" in sys.argv:
        echo_json(json.dumps({"error": told}))
    echo(f"nearfar: {told}", err=True)
    sys.exit(status)
