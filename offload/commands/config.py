"""Commands of `nearfar config`: where the settings are, what they are, and changing one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from backbone.terminal_text import echo, echo_json

# What another room knows of a setting's value: a function that returns it as it is kept.
CHECKS: dict[str, Callable[[str], str]] = {}

# What a default means where nobody has chosen.
_WITHOUT = {"policy.privacy": "  # not chosen: a person is asked, programs' texts may leave"}

config_app = typer.Typer(
    help="The settings of this device, and where each comes from.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Name = Annotated[str, typer.Argument(help="A setting, as in edge.model.")]


@config_app.command()
def path(as_json: Json = False) -> None:
    """Print where the settings file is, or would be."""
    import json

    from offload.config.places import places

    here = places()
    document = {
        "config_file": str(here.config_file),
        "exists": here.config_file.exists(),
        "data": str(here.data),
        "cache": str(here.cache),
    }
    echo(json.dumps(document) if as_json else here.config_file)


@config_app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A section or a setting; all of them without one.")
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what the file or a variable says.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the settings as they hold now, and whether file, environment or default says so."""
    import json
    from dataclasses import asdict

    from offload.config.places import places
    from offload.config.settings_sources import all_said, no_setting

    file = places().config_file
    found = [each for each in all_said(file) if name in (None, each.name, each.name.split(".")[0])]
    if name is not None and not found:
        raise no_setting(name)
    found = [each for each in found if not changed or each.source != "default"]
    if as_json:
        echo_json(json.dumps([asdict(each) | {"variable": each.variable} for each in found]))
        return
    for each in found:
        by = {
            "default": _WITHOUT.get(each.name, ""),
            "file": f"  # {file}",
            "environment": f"  # {each.variable}",
        }
        value = "none" if each.value is None else json.dumps(each.value, ensure_ascii=False)
        echo(f"{each.name:27} = {value}{by[each.source]}")
    if not found:
        echo("nothing is set; every setting has its default")


# A value may begin with a minus: -1 and -0.5 are no options.
@config_app.command("set", context_settings={"ignore_unknown_options": True})
def set_value(
    name: Name,
    value: Annotated[str, typer.Argument(help="Its value; - reads it from stdin, as for a key.")],
    as_json: Json = False,
) -> None:
    """Write one setting to the file, once it has been checked."""
    import json
    import os
    import sys

    from offload.config.places import places
    from offload.config.settings_sources import SECRETS, SettingValue, put

    file = places().config_file
    value = sys.stdin.read().strip() if value == "-" else value
    kept = put(file, name, CHECKS.get(name, str)(value))
    said = SettingValue(
        name=name, value="(set)" if name in SECRETS and kept else kept, source="file"
    )
    hidden = said.variable in os.environ
    if as_json:
        document = {"name": name, "value": said.value, "config_file": str(file)}
        echo_json(json.dumps(document | {"overridden": hidden}))
        return
    echo(f"{name} = {json.dumps(said.value, ensure_ascii=False)} is written to {file}")
    if hidden:
        echo(f"the variable {said.variable} still says otherwise; unset it", err=True)


@config_app.command()
def unset(name: Name, as_json: Json = False) -> None:
    """Take one setting out of the file, so that its default holds again."""
    import json

    from offload.config.places import places
    from offload.config.settings_sources import drop

    file = places().config_file
    gone = drop(file, name)
    line = f"{name} is taken out of {file}" if gone else f"{name} does not stand in {file}"
    echo(json.dumps({"name": name, "removed": gone}) if as_json else line)
