"""Slash commands of the chat: /new, /retry, /far, /model, /params and the others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from edge.chat import history_commands as history
from edge.chat.screen import Command, LeaveChat
from edge.chat.status_line import link_state
from edge.chat.terminal import why
from offload.errors import RequestError
from offload.messages import Sampling
from offload.thinking import split

if TYPE_CHECKING:
    from edge.chat.chat import Chat

PARAMS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_tokens")


async def _new(chat: Chat, rest: str) -> None:
    chat.conversation, chat.last, chat.explanation = None, None, ""
    chat.attached.drop()
    chat.screen.remark("a new conversation")
    if rest:
        await chat.ask(rest)


async def _retry(chat: Chat, _: str) -> None:
    await history.answer_again(chat, None)


async def _far(chat: Chat, rest: str) -> None:
    if link_state(chat.engine) == "none":
        raise RequestError(
            "there is no far model here; `nearfar link join` sets one up, and --offline closes it"
        )
    await (chat.ask(rest, "cloud") if rest else history.answer_again(chat, "cloud"))


async def _cloud(chat: Chat, rest: str) -> None:
    chat.screen.remark("/cloud is called /far now")
    await _far(chat, rest)


async def _near(chat: Chat, rest: str) -> None:
    await (chat.ask(rest, "edge") if rest else history.answer_again(chat, "edge"))


async def _why(chat: Chat, _: str) -> None:
    chat.screen.remark(chat.explanation or _kept_why(chat) or "nothing has been answered yet")


def _kept_why(chat: Chat) -> str:
    """Return what is kept of the newest answer; empty where there is none, or it never ended."""
    turns = chat.store.read(chat.conversation).turns if chat.conversation else ()
    answers = [each for each in turns if each.role == "assistant"]
    finish = answers[-1].finish if answers else None
    return why(finish) if finish else ""


async def _system(chat: Chat, rest: str) -> None:
    if not rest:
        chat.screen.remark(chat.system or "no system prompt; /system TEXT sets one")
        return
    chat.system = "" if rest == "none" else rest
    if chat.conversation:
        chat.store.instruct(chat.conversation, chat.system, chat.privacy)
    chat.screen.remark("the system prompt is set" if chat.system else "no system prompt")


async def _model(chat: Chat, rest: str) -> None:
    if rest and chat.changing is None:
        raise RequestError("the model cannot be changed here; leave and use --model")
    if rest and chat.changing is not None:
        await chat.changing.change(chat, rest)
    card = chat.engine.card()
    if not rest and chat.changing is not None:
        for name in chat.changing.names():
            chat.screen.remark(f"{'*' if name == chat.changing.current else ' '} {name}")
    chat.screen.remark(
        f"{card.name}: {card.num_parameters / 1e6:,.0f}M parameters, {card.quantization}, "
        f"a context of {card.max_model_len} tokens"
    )


async def _think(chat: Chat, rest: str) -> None:
    await _thinking(chat, rest, True)


async def _no_think(chat: Chat, rest: str) -> None:
    await _thinking(chat, rest, False)


async def _thinking(chat: Chat, rest: str, on: bool) -> None:
    chat.options = replace(chat.options, thinking=on)
    does = "thinks before it answers" if on else "answers without thinking first"
    chat.screen.remark(f"from here on the model {does}, where its chat template has the choice")
    if rest:
        await chat.ask(rest)


async def _thoughts(chat: Chat, _: str) -> None:
    thoughts = chat.thoughts or _kept_thoughts(chat)
    chat.screen.remark(thoughts or "nothing was thought before the last answer")


def _kept_thoughts(chat: Chat) -> str:
    """Return what is kept of the thoughts before the newest answer, of an earlier run, too."""
    turns = chat.store.read(chat.conversation).turns if chat.conversation else ()
    return next((split(each.content).thought for each in turns[::-1] if each.finish), "")


async def _params(chat: Chat, rest: str) -> None:
    if rest:
        chat.options = replace(chat.options, sampling=changed(chat.options.sampling, rest))
    known = {name: getattr(chat.options.sampling, name) for name in PARAMS}
    if chat.options.sampling.own:
        known["temperature"] = "own"
    chat.screen.remark("  ".join(f"{name}={value}" for name, value in known.items()))


def changed(sampling: Sampling, text: str) -> Sampling:
    """Return the sampling with NAME=VALUE pairs set; temperature=own is the model's.

    Raises RequestError.
    """
    values: dict[str, Any] = {}
    for pair in text.replace(",", " ").split():
        name, _, value = pair.partition("=")
        if name not in PARAMS or not value:
            raise RequestError(f"{pair!r} is not NAME=VALUE; known are {', '.join(PARAMS)}")
        if name == "temperature":
            values["own"] = value == "own"
            value = "0" if value == "own" else value
        kind = get_type_hints(Sampling)[name]
        try:
            values[name] = msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:
            raise RequestError(f"{name} is {value!r}; it must be a number") from None
    return msgspec.structs.replace(sampling, **values)


async def _attach(chat: Chat, rest: str) -> None:
    """Attach a document or a folder; without one tell what is attached."""
    if rest == "none":
        chat.attached.drop()
        if chat.conversation is not None:
            chat.store.keep_documents(chat.conversation, ())
        chat.screen.remark("nothing is attached any more")
        return
    if rest:
        chat.screen.remark(str(await asyncio.to_thread(chat.attached.attach, rest)))
        return
    for name in chat.attached.names():
        chat.screen.remark(name)
    if not chat.attached.names():
        raise RequestError(
            "nothing is attached; name a text file, a PDF, a folder or a picture: /attach PATH"
        )


async def _tools(chat: Chat, rest: str) -> None:
    """List the tools, or leave them out from here on, or offer them again."""
    if chat.desk is None or not chat.desk.sources:
        raise RequestError(
            "no tool is set up: `nearfar config set tools.time true`, tools.files, or mcp.json"
        )
    if rest in ("on", "off"):
        chat.desk.is_on = rest == "on"
    elif rest:
        raise RequestError(f"there is no /tools {rest}; write /tools, /tools off or /tools on")
    await chat.desk.toolbox()
    for trouble in chat.desk.troubles:
        chat.screen.remark(trouble)
    for name, source, description in chat.desk.listed():
        chat.screen.remark(f"{name:24} {source}: {description}")
    chat.screen.remark("you are asked before each call" if chat.desk.is_on else "tools are off")


async def _help(chat: Chat, _: str) -> None:
    for name, command in COMMANDS.items():
        chat.screen.remark(f"{f'{name} {command.takes}':24} {command.help}")


async def _quit(chat: Chat, _: str) -> None:
    raise LeaveChat


COMMANDS = {
    "/new": Command(help="begin a new conversation", act=_new),
    "/retry": Command(help="answer the last question again", act=_retry),
    "/far": Command(help="ask the far model, again or this", act=_far, takes="[TEXT]"),
    "/near": Command(help="ask the near model only, again or this", act=_near, takes="[TEXT]"),
    "/cloud": Command(help="the earlier name of /far", act=_cloud, takes="[TEXT]"),
    "/why": Command(help="who answered, why, and what was sent", act=_why),
    "/system": Command(
        help="show or set the system prompt; none drops it", act=_system, takes="[TEXT]"
    ),
    "/model": Command(help="list the near models, or change to one", act=_model, takes="[NAME]"),
    "/params": Command(help="show or set the sampling", act=_params, takes="[NAME=VALUE]"),
    "/think": Command(help="let the model think before it answers", act=_think, takes="[TEXT]"),
    "/no_think": Command(
        help="let the model answer without thinking", act=_no_think, takes="[TEXT]"
    ),
    "/thoughts": Command(help="the model's thoughts before the last answer", act=_thoughts),
    "/attach": Command(
        help="attach a text, PDF, folder or picture; none drops all", act=_attach, takes="[PATH]"
    ),
    "/file": Command(help="the earlier name of /attach", act=_attach, takes="PATH"),
    "/tools": Command(help="the tools; off and on", act=_tools, takes="[on|off]"),
    "/save": Command(
        help="write the conversation as .md or .json", act=history.save, takes="[FILE]"
    ),
    "/copy": Command(
        help="the last answer to the clipboard, or its code", act=history.copy, takes="[code]"
    ),
    "/continue": Command(help="go on with an answer that was stopped", act=history.go_on),
    "/edit": Command(help="ask the last question in other words", act=history.edit, takes="TEXT"),
    "/versions": Command(
        help="other versions of a question or answer; N shows one",
        act=history.versions,
        takes="[N]",
    ),
    "/undo": Command(help="take back the last question and answer", act=history.undo),
    "/redo": Command(help="bring back what /undo took back", act=history.redo),
    "/forget": Command(help="delete this conversation", act=history.forget),
    "/restore": Command(
        help="bring back what was deleted last, or ID", act=history.restore, takes="[ID]"
    ),
    "/list": Command(
        help="earlier conversations, or those with a text", act=history.list_past, takes="[TEXT]"
    ),
    "/open": Command(help="go on with an earlier conversation", act=history.open_past, takes="ID"),
    "/help": Command(help="these lines", act=_help),
    "/quit": Command(help="leave", act=_quit),
    "/exit": Command(help="leave", act=_quit),
}
