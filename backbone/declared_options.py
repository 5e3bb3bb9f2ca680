"""Options declared once, by a dataclass: its fields as a command's flags, and their bounds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, get_type_hints

import msgspec
from typer.models import OptionInfo

from backbone.errors import NearfarError, as_typed

Options = TypeVar("Options")


def from_options(kind: type[Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags that a dataclass declares, and call it with an instance.

    A field is a flag where its type has a typer.Option. The flags stand where the command's
    parameter of that type does; its other parameters are arguments and flags of its own.
    """
    hints = get_type_hints(kind, include_extras=True)
    declared = [
        each
        for each in fields(kind)  # type: ignore[arg-type]
        if any(isinstance(one, OptionInfo) for one in _metadata(hints[each.name]))
    ]

    def declare(run: Callable[..., None]) -> Callable[..., None]:
        flags: list[inspect.Parameter] = []
        for name, own in inspect.signature(run, eval_str=True).parameters.items():
            if own.annotation is kind:
                taken = name
                flags += [_parameter(each, hints[each.name]) for each in declared]
            else:
                flags.append(own.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        def command(**given: Any) -> None:
            with as_typed():
                options = kind(**{each.name: given.pop(each.name) for each in declared})
            run(**{taken: options}, **given)

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__annotations__ = {each.name: each.annotation for each in flags}
        command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
        return command

    return declare


def require_bounds(options: object, refusal: type[NearfarError]) -> None:
    """Check each field whose type has a msgspec.Meta of numbers. Raises a refusal."""
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        for meta in _metadata(hint):
            value = getattr(options, name)
            if isinstance(meta, msgspec.Meta) and not _is_within(value, meta):
                words = " and ".join(_bounds(meta))
                raise refusal(f"{_shown(name, hint)} is {value}; it must be {words}")


def _is_within(value: float, meta: msgspec.Meta) -> bool:
    return (
        (meta.ge is None or value >= meta.ge)
        and (meta.gt is None or value > meta.gt)
        and (meta.le is None or value <= meta.le)
    )


def _bounds(meta: msgspec.Meta) -> Iterator[str]:
    if meta.gt is not None:
        yield f"above {meta.gt}"
    if meta.ge is not None and meta.le is not None:
        yield f"from {meta.ge} to {meta.le}"
    elif meta.ge is not None:
        yield f"{meta.ge} or more"
    elif meta.le is not None:
        yield f"at most {meta.le}"


def _shown(name: str, hint: Any) -> str:
    """Return a field's flag where it has one, else its name."""
    for one in _metadata(hint):
        if isinstance(one, OptionInfo):
            # Without a default of its own, typer's first argument is a flag's name.
            words = (one.default, *(one.param_decls or ()))
            given = [word for word in words if isinstance(word, str) and word.startswith("--")]
            return given[0] if given else f"--{name.replace('_', '-')}"
    return name


def _parameter(declared: Field[Any], hint: Any) -> inspect.Parameter:
    default = declared.default
    if declared.default_factory is not MISSING:
        default = declared.default_factory()
    if default is MISSING:
        default = inspect.Parameter.empty
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(declared.name, kind, default=default, annotation=hint)


def _metadata(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())
