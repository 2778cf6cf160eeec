"""Where things are. The only module that knows the layout of the repository."""

import os
from pathlib import Path

from analysis.errors import StoreError

ROOT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Folder of results and caches: `$ANALYSIS_HOME`, or `data/` of the repository. Raises StoreError."""
    folder = os.environ.get("ANALYSIS_HOME")
    try:
        return Path(folder).expanduser().resolve() if folder else ROOT / "data"
    except (RuntimeError, OSError, ValueError) as error:  # no such user, a loop of links, a NUL
        raise StoreError(f"ANALYSIS_HOME {folder!r}: is no place for a folder ({error}); name another") from error


def runs() -> Path:
    """Run folders and executed notebooks (never committed)."""
    return home() / "runs"


def cache() -> Path:
    """Tokenised corpora and other things that can be made again."""
    return home() / "cache"


def lab() -> Path:
    """Shipped models and tokenizer of the embedded lab (part of the repository, never moved)."""
    return ROOT / "data" / "lab"


def notebooks() -> Path:
    """Source notebooks and `suite.toml`."""
    return ROOT / "notebooks"


def figures() -> Path:
    """Committed figures."""
    return ROOT / "figures"
