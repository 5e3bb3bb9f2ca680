"""Text samples: the text that a command calibrates or judges on, as named at the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.errors import NearfarError, as_typed, cause
from backbone.file_reading import MAX_TEXT_BYTES
from backbone.file_reading import read_text as read_text_file

if TYPE_CHECKING:
    from quantize.calibration import CalibrationOptions


Windows = Annotated[int, typer.Option("--windows", help="How many windows of text are used.")]
WindowLen = Annotated[int, typer.Option("--window", help="The tokens of one window.")]
ParseSpecial = Annotated[
    bool, typer.Option("--parse-special", help="Control tokens spelled in the text are meant.")
]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sample of a text: windows of `window_len` tokens; without a file, of the embedded text."""

    path: Annotated[
        Path | None,
        typer.Option("--text", help="Calibration text (UTF-8); without it, the embedded one."),
    ] = None
    num_windows: Windows = 64
    window_len: WindowLen = 512
    parse_special: ParseSpecial = False
    seed: Annotated[int, typer.Option("--seed", help="Which windows of the text are drawn.")] = 0

    def text(self) -> str | None:
        """Return the file's content, None where none was named. Raises NearfarError."""
        return None if self.path is None else read_text(self.path)

    def options(self) -> CalibrationOptions:
        """Return how the windows are drawn. Raises WrongUsage."""
        return self._drawn(self.num_windows, self.window_len, self.seed)

    def part(self) -> CalibrationOptions:
        """Return less text, of other windows: for what is measured many times over."""
        return self._drawn(max(1, self.num_windows // 8), min(self.window_len, 256), _OTHER_SEED)

    def _drawn(self, num_windows: int, window_len: int, seed: int) -> CalibrationOptions:
        # It stands on torch, which no command needs to say what it was given.
        from quantize.calibration import CalibrationOptions

        with as_typed():
            return CalibrationOptions(
                num_windows=num_windows,
                window_len=window_len,
                seed=seed,
                parse_special=self.parse_special,
            )


_OTHER_SEED = 17  # any number that is not the default of --seed


def read_text(path: Path) -> str:
    """Return a text file's content. Raises NearfarError."""
    try:
        return read_text_file(path, MAX_TEXT_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise NearfarError(f"cannot read {path} ({cause(error)}); name a UTF-8 text file") from None
