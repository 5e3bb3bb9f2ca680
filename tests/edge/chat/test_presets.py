"""Presets: what they hold, what goes before them, and what a Modelfile becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbone.errors import WrongUsage
from edge.chat.ask_options import AskOptions
from edge.chat.modelfile import parse_modelfile
from edge.chat.presets import Preset, keep_preset, preset_of, read_presets
from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.errors import RequestError, SettingsError
from offload.messages import Privacy, Sampling
from tests.in_process import Run

PIRATE = Preset(
    system="You are a pirate.",
    model="smol",
    temperature=0.2,
    top_p=0.8,
    stop=("END",),
    max_tokens=64,
    privacy=Privacy.LOCAL_ONLY,
)


@pytest.fixture
def pirate() -> None:
    keep_preset("pirate", PIRATE, places().presets)


def test_a_preset_is_kept_and_found_by_name(pirate: None) -> None:
    assert read_presets(places().presets) == {"pirate": PIRATE}
    with pytest.raises(WrongUsage, match="there are pirate"):
        preset_of("parrot", places().presets)
    keep_preset("pirate", None, places().presets)
    assert read_presets(places().presets) == {}


def test_a_question_is_asked_by_its_preset(pirate: None) -> None:
    wish = AskOptions(preset="pirate")
    sampling = Sampling(temperature=0.2, top_p=0.8, stop=("END",), max_tokens=64)
    assert wish.sampling(0.0) == sampling
    assert wish.persona() == "You are a pirate." and wish.settings().edge.model == "smol"
    assert wish.at_least(Privacy.CLOUD_OK) is Privacy.LOCAL_ONLY


def test_flags_go_before_a_preset(pirate: None) -> None:
    wish = AskOptions(
        preset="pirate", system="Be brief.", model="big", temperature=0.0, max_tokens=8, seed=3
    )
    sampling = Sampling(temperature=0.0, top_p=0.8, stop=("END",), max_tokens=8, seed=3)
    assert wish.sampling(None) == sampling
    assert wish.persona() == "Be brief." and wish.settings().edge.model == "big"


def test_a_preset_can_be_the_default_and_be_left_out(pirate: None) -> None:
    assert AskOptions().persona() == ""
    change_settings(places().config_file, "edge", {"preset": "pirate"})
    assert AskOptions().persona() == "You are a pirate."
    assert (
        AskOptions(preset="").persona() == ""
        and AskOptions(preset="").at_least(Privacy.ASK) is Privacy.ASK
    )


def test_a_preset_opens_nothing_that_the_settings_keep() -> None:
    keep_preset("open", Preset(privacy=Privacy.CLOUD_OK), places().presets)
    wish = AskOptions(preset="open")
    assert wish.at_least(Privacy.LOCAL_ONLY) is Privacy.LOCAL_ONLY
    assert wish.at_least(Privacy.ASK) is Privacy.ASK


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"a": {"unknown": 1}}', '{"a": {"top_p": 9}}'])
def test_a_file_that_is_damaged_is_one_line(text: str) -> None:
    places().presets.parent.mkdir(parents=True, exist_ok=True)
    places().presets.write_text(text)
    with pytest.raises(SettingsError, match="mend or delete it"):
        read_presets(places().presets)


def test_the_commands_make_change_show_and_remove_one(run: Run, tmp_path: Path) -> None:
    assert run("presets", "set", "brief", "--system", "Be brief.", "--top-k", "3")[0] == 0
    assert run("presets", "set", "brief", "--top-k", "5", "--stop", "END")[0] == 0
    kept = preset_of("brief", places().presets)
    assert kept == Preset(system="Be brief.", top_k=5, stop=("END",))
    assert (
        "Be brief." in run("presets", "list")[1] and "top_k" in run("presets", "show", "brief")[1]
    )
    status, _, told = run("presets", "set", "brief", "--temperature", "9")
    assert status != 0 and "temperature is 9" in told
    assert run("config", "set", "edge.preset", "brief")[0] == 0
    assert run("config", "set", "edge.preset", "none such")[0] != 0
    assert run("presets", "remove", "brief")[0] == 0 and read_presets(places().presets) == {}


MODELFILE = '''# a persona
FROM ./tiny.gguf
PARAMETER temperature 0.5
parameter repeat_penalty 1.1
PARAMETER num_predict -1
PARAMETER num_ctx 4096
PARAMETER stop "<|end|>"
PARAMETER stop User:
TEMPLATE """{{ .System }}
{{ .Prompt }}"""
SYSTEM """
You are Mario.
Answer briefly.
"""
LICENSE """MIT"""
MESSAGE user Hello
'''


def test_a_modelfile_is_read_as_a_preset(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    preset, left_out = parse_modelfile(MODELFILE, tmp_path)
    assert preset == Preset(
        system="You are Mario.\nAnswer briefly.",
        model=str(tmp_path / "tiny.gguf"),
        temperature=0.5,
        repetition_penalty=1.1,
        stop=("<|end|>", "User:"),
    )
    assert left_out == ["PARAMETER num_ctx", "TEMPLATE", "MESSAGE"]
    assert parse_modelfile('FROM llama3.2\nSYSTEM "Be brief."', tmp_path).preset == Preset(
        model="llama3.2", system="Be brief."
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SYSTEM hello", "no FROM"),
        ("FROM x\nPARAMETER top_p many", "must be a number"),
        ("FROM x\nPARAMETER top_p 7", "top_p is 7"),
        ("FROM x\nwhat is this", "no instruction"),
        ('FROM x\nSYSTEM """never ends', "never closed"),
    ],
)
def test_what_is_no_modelfile_is_one_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=told):
        parse_modelfile(text, tmp_path)


def test_a_modelfile_is_imported(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mario"
    folder.mkdir()
    (folder / "Modelfile").write_text(MODELFILE)
    status, out, err = run("presets", "import", str(folder / "Modelfile"))
    assert status == 0 and "nearfar chat --preset mario" in out
    assert "left out: PARAMETER num_ctx, TEMPLATE, MESSAGE" in err
    assert "mario" in read_presets(places().presets)
