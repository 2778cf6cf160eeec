"""Where things are. The only module that knows the layout of the repository."""

import os
from pathlib import Path

from analysis.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


def expanded(path: str | Path) -> Path:
    """A path as the shell would have it, `~` and `~user` opened. Raises UsageError for what can be no path: of another
    type, empty, with a NUL in it, or of a user there is not.
    """
    if not isinstance(path, (str, Path)) or not str(path) or "\0" in str(path):
        raise UsageError(f"path {path!r}: is none; give the name of a file or folder")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(
            f"path {str(path)!r}: there is no user {str(path).partition('/')[0]}; write ./~... for a name"
        ) from None


def home() -> Path:
    """Folder of results and caches: `$ANALYSIS_HOME`, or `data/` of the repository."""
    folder = os.environ.get("ANALYSIS_HOME")
    return expanded(folder).resolve() if folder else ROOT / "data"


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
