"""Small files that somebody wrote by hand: recipes and lists of shares. No torch."""

from pathlib import Path

HANDED = ("/dev/fd/", "/proc/self/fd/")
LARGEST = 2**20  # bytes; the largest recipe that says everything takes some thousand


def read_small(path: Path) -> str:
    """The text of a file of UTF-8, or of what a shell hands over (`<(command)`). Raises ValueError saying what is wrong
    with it; also of any other pipe or a device, which may never end.
    """
    try:
        if path.exists() and not path.is_file() and not (path.is_fifo() and str(path).startswith(HANDED)):
            raise ValueError("it is a folder" if path.is_dir() else "it is a pipe or a device; give a file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ValueError(getattr(error, "strerror", None) or str(error)) from None
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text (byte {error.start})") from None
