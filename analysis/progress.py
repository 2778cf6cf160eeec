"""Progress bars: tqdm, quiet where nobody looks.

`ANALYSIS_PROGRESS=0` silences every bar, `=1` forces them; otherwise a bar is drawn on a terminal and in a notebook. A
process that runs another one headless names a file in `ANALYSIS_PROGRESS_FILE`: the other's bars are written there, and
`last_line` reads the newest.
"""

import os
import sys
from pathlib import Path

from tqdm import tqdm as plain_bar
from tqdm.auto import tqdm


def enabled() -> bool:
    """Whether bars are drawn: the environment's word, else whether somebody looks."""
    wish = os.environ.get("ANALYSIS_PROGRESS", "auto")
    return wish == "1" or (wish != "0" and (sys.stderr.isatty() or "ipykernel" in sys.modules))


class _BarInFile(plain_bar):
    """A bar written to a file of its own, which is closed with it."""

    def __init__(self, iterable, file: Path, **options):
        self._stream = file.open("a", encoding="utf-8")
        super().__init__(iterable, file=self._stream, **options)

    def close(self) -> None:
        super().close()
        self._stream.close()


def bar(iterable=None, *, total: int | None = None, desc: str = "", unit: str = "it", leave: bool = False) -> tqdm:
    """A tqdm bar with steps done and time left, or a silent one."""
    options = {"total": total, "desc": desc, "unit": unit, "leave": leave}
    if file := os.environ.get("ANALYSIS_PROGRESS_FILE"):
        return _BarInFile(iterable, Path(file), **options, mininterval=0.5, ncols=100)
    return tqdm(iterable, **options, disable=not enabled(), dynamic_ncols=True)


def last_line(file: Path) -> str:
    """The newest state of the newest bar in a progress file, "" where there is none yet."""
    if not file.exists():
        return ""
    states = [
        state.strip()
        for state in file.read_text(encoding="utf-8", errors="replace")[-2000:].replace("\n", "\r").split("\r")
    ]
    return next((state for state in reversed(states) if state and not state.startswith("\x1b")), "")
