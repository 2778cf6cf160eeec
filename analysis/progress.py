"""Progress bars: tqdm, quiet where nobody looks.

`ANALYSIS_PROGRESS=0` silences every bar, `=1` forces them; otherwise a bar is drawn on a terminal and in a notebook.
"""

import os
import sys

from tqdm.auto import tqdm


def enabled() -> bool:
    """Whether bars are drawn: the environment's word, else whether somebody looks."""
    wish = os.environ.get("ANALYSIS_PROGRESS", "auto")
    return wish == "1" or (wish != "0" and (sys.stderr.isatty() or "ipykernel" in sys.modules))


def bar(iterable=None, *, total: int | None = None, desc: str = "", unit: str = "it", leave: bool = False) -> tqdm:
    """A tqdm bar with steps done and time left, or a silent one."""
    return tqdm(iterable, total=total, desc=desc, unit=unit, leave=leave, disable=not enabled(), dynamic_ncols=True)
