"""Where things are. The only module that knows the layout of the repository."""

import os
from pathlib import Path

from analysis.errors import StoreError, UsageError, quoted, shortened

ROOT = Path(__file__).resolve().parent.parent


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as the shell would have it, `~` and `~user` opened. Raises UsageError for what can be no path: of another
    type, empty, with a NUL in it, or of a user there is not.
    """
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str) or not name or "\0" in name:
        raise UsageError(f"path {quoted(path)}: is none; give the name of a file or folder")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UsageError(
            f"path {quoted(name)}: there is no user {shortened(name.partition('/')[0], 60)}; write ./~... for a name"
        ) from None


def in_checkout() -> bool:
    """Whether the package lies in the project's repository, where the lab's models and the notebooks are."""
    return (ROOT / "pyproject.toml").is_file()


def elsewhere() -> str:
    """Why there are no lab models and no notebooks, and what to do: the end of a message; "" in a checkout."""
    if in_checkout():
        return ""
    return (
        f"; {ROOT / 'analysis'} was installed without the lab's models and the notebooks: they come with the project's"
        " repository, so work in a checkout of it (`pip install -e .` there), or name a model and texts of your own"
    )


def home() -> Path:
    """Folder of results and caches: `$ANALYSIS_HOME`, or `data/` of the repository; for a package installed elsewhere
    `~/.local/share/pruning-analysis`. Raises StoreError.
    """
    folder = os.environ.get("ANALYSIS_HOME")
    if not folder:
        return ROOT / "data" if in_checkout() else expanded("~/.local/share/pruning-analysis")
    try:
        return expanded(folder).resolve()
    except (UsageError, RuntimeError, OSError) as error:  # no such user, a loop of links, a NUL
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
