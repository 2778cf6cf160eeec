"""Files as they lie on a disk: found, unpacked, and named for what they are. Imports no torch.

path = find("notes.txt.gz", "text file notes.txt.gz")
text = decode(contents(path, place), place)
"""

import errno
import os
import stat
from pathlib import Path

from analysis import memory
from analysis.errors import DataError

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}  # first bytes -> pyarrow's name
_PIECE = 1 << 22
_EXPORT = "save its text as UTF-8"
_UNPACK = "unpack it, and give a file out of it"
_ROWS = "save its rows as .jsonl, .csv or .parquet"
FOREIGN = {  # first bytes -> what such a file is, and what to do
    b"PK\x03\x04": ("a zip archive or an Office document", f"{_UNPACK}, or {_EXPORT}"),
    b"%PDF": ("a PDF", _EXPORT),
    b"\xd0\xcf\x11\xe0": ("an Office document", _EXPORT),
    b"{\\rtf": ("an RTF document", _EXPORT),
    b"\xfd7zXZ\0": ("packed by xz", "unpack it with `unxz`, or pack it with gzip or zstd"),
    b"\x04\x22\x4d\x18": ("packed by lz4", "unpack it with `unlz4`, or pack it with gzip or zstd"),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x89HDF": ("an HDF5 file", _ROWS),
    b"Obj\x01": ("an Avro file", _ROWS),
    b"ORC": ("an ORC file", _ROWS),
    b"SQLite format 3\0": ("an SQLite database", _ROWS),
    b"\x93NUMPY": ("a NumPy array", "give the text it was made of"),
    b"GGUF": ("a GGUF model", "give a text"),
    b"\x89PNG": ("a picture", "give a text"),
    b"\xff\xd8\xff": ("a picture", "give a text"),
    b"\x7fELF": ("a program", "give a text"),
}
TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}  # the last: an Arrow stream


def find(name: str, place: str, *, folders: bool = False) -> Path:
    """The path of a file, or with `folders` also of a folder. Raises DataError, which begins with `place`, saying what
    is there instead.
    """
    path = os.path.expanduser(name)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: {_absent(path, error)}") from error
    if stat.S_ISDIR(mode) and not folders:
        raise DataError(f"{place}: is a folder; name a file in it")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise DataError(
            f"{place}: is a {kind}, and a text is read more than once; write what comes out of it to a file, and give"
            " that"
        )
    return Path(path)


def _absent(path: str, error: Exception) -> str:
    """Why there is no file to be read at a path."""
    code = getattr(error, "errno", None)
    if code == errno.ENOENT and os.path.islink(path):
        return f"is a link to {os.readlink(path)}, which is not there"
    if code == errno.ENOENT and path.startswith("~"):
        return f"no such file ({path.partition('/')[0]} is no user here)"
    if code in (errno.ENOENT, None):
        return "no such file"
    return {
        errno.ENAMETOOLONG: "no such file (no name is that long)",
        errno.ENOTDIR: "no such file (a part of its path is no folder)",
        errno.ELOOP: "is a link that leads back to itself",
    }.get(code, f"cannot be read: {os.strerror(code).lower()}")


def contents(path: Path, place: str) -> bytes:
    """The bytes of a file, unpacked where it is packed by gzip, zstd or bzip2, which its first bytes say.

    Raises DataError, which begins with `place`, for a file that cannot be read, is empty, of another kind, cut off, or
    larger than the free memory can hold.
    """
    head = first_bytes(path, place)
    try:
        codec = next((codec for magic, codec in PACKED.items() if head.startswith(magic)), None)
        if codec is not None:
            data = _unpacked(path, codec, place)
        else:
            check_room(path.stat().st_size, place)
            data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise DataError(f"{place}: is empty")
    for magic, (kind, remedy) in FOREIGN.items():
        if data.startswith(magic):
            raise DataError(f"{place}: is {kind}, not text; {remedy}")
    if data[257:262] == b"ustar":
        raise DataError(f"{place}: is a tar archive, not text; {_UNPACK}")
    return data


def first_bytes(path: Path, place: str) -> bytes:
    """As many as tell what a file is. Raises DataError, which begins with `place`, for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from error


def _unpacked(path: Path, codec: str, place: str) -> bytes:
    import pyarrow

    pieces, size, room = [], 0, memory.available()
    with pyarrow.OSFile(str(path)) as file, pyarrow.CompressedInputStream(file, codec) as stream:
        while piece := stream.read(_PIECE):
            pieces.append(piece)
            size += len(piece)
            check_room(size, place, room)
    return b"".join(pieces)


def check_room(size: int, place: str, room: int | None = None) -> None:
    """Raise DataError where so many bytes of text cannot be held: once as they are, once as characters."""
    room = memory.available() if room is None else room
    if 2 * size > room:
        raise DataError(
            f"{place}: holds {size / 2**30:,.1f} GiB or more of text, which do not fit into the {room / 2**30:,.1f} GiB"
            " of free memory; give a part of it as a file of its own"
        )


def decode(data: bytes, place: str) -> str:
    """UTF-8 bytes as text, without a byte-order mark, lines ended by newlines. Raises DataError, which begins with
    `place`, for other encodings and for binary files.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{place}: is UTF-16 text (its first bytes say so); save it as UTF-8")
    if b"\0" in (start := data[:64]) and any(start[::2]) != any(start[1::2]):
        raise DataError(f"{place}: is UTF-16 text (every other byte is NUL); save it as UTF-8")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: is no UTF-8 text (byte 0x{data[error.start]:02x} at position {error.start}); give a text file,"
            " saved as UTF-8"
        ) from error
    if (nul := data.find(b"\0")) >= 0:
        raise DataError(f"{place}: is binary (NUL byte at position {nul}); give a text file, saved as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
