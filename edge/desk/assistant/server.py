"""`nearfar assistant`: the page's server on loopback, until a signal stops it."""

from __future__ import annotations

import asyncio
import json
import socket
import webbrowser

from backbone.causes import cause
from backbone.errors import MissingExtra
from edge.desk.asking import Ask
from edge.desk.assistant.answers import Answers
from edge.desk.assistant.desk import Desk
from edge.desk.conversations import Conversations
from offload.errors import SettingsError
from offload.places import Places, places

DEFAULT_PORT = 8089


def run(wish: Ask, *, port: int, open_page: bool, as_json: bool) -> None:
    """Serve the page until Ctrl-C. Raises SettingsError for a taken port, MissingExtra."""
    try:
        import starlette
        import uvicorn
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "starlette", "assistant") from None
    del starlette, uvicorn
    asyncio.run(_serve(wish, places(), port=port, open_page=open_page, as_json=as_json))


async def _serve(wish: Ask, here: Places, *, port: int, open_page: bool, as_json: bool) -> None:
    import uvicorn

    from edge.desk.assistant.app import build_app
    from edge.desk.assistant.door import kept_token

    token = kept_token(here.keys / "assistant.token")
    store = Conversations(here.conversations)
    listener = _bind(port)
    answers = Answers(store)
    desk = Desk(wish.settings(), here, ask=answers.consent, offline=wish.offline)
    config = uvicorn.Config(
        build_app(desk, store, answers, token=token),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/#token={token}"
    announce(url, as_json=as_json)
    if open_page:
        await asyncio.to_thread(webbrowser.open, url)
    await uvicorn.Server(config).serve(sockets=[listener])
    store.close()


def announce(url: str, *, as_json: bool) -> None:
    """Say where the page is, for a person or as one JSON line."""
    if as_json:
        print(json.dumps({"url": url}), flush=True)
        return
    print(f"the assistant is at {url}\nwhoever has this link can read what you wrote", flush=True)
    print("stop with Ctrl-C", flush=True)


def _bind(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SettingsError(
            f"cannot listen at 127.0.0.1:{port} ({cause(error)}); "
            "choose another --port, or 0 for any"
        ) from None
