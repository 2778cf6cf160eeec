"""What lies on a disk: packed files are unpacked, others named for what they are, and no wait for what never ends."""

import bz2
import gzip
import os

import pyarrow
import pytest

from analysis import memory
from analysis.errors import DataError
from analysis.text import files


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def contents(path) -> bytes:
    return files.contents(files.find(str(path), "it"), "it")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd, bz2.compress])
def test_packed_files_are_read_by_their_first_bytes_whatever_their_name(pack, tmp_path):
    path = tmp_path / "notes"
    path.write_bytes(pack(b"a text\n" * 1000))
    assert contents(path) == b"a text\n" * 1000


def test_a_file_packed_in_pieces_is_read_to_its_end_and_a_torn_one_refused(tmp_path):
    path = tmp_path / "notes.gz"
    path.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    assert contents(path) == b"one two"
    for pack in (gzip.compress, zstd):
        path.write_bytes(pack(os.urandom(1000))[:-9])
        with pytest.raises(DataError, match="it: cannot be read: .*"):
            contents(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"%PDF-1.7 ...", "is a PDF, not text; save its text as UTF-8"),
        (b"PK\x03\x04....", "is a zip archive or an Office document, not text; unpack it"),
        (b"\xfd7zXZ\0....", "is packed by xz, not text; unpack it with `unxz`"),
        (b"SQLite format 3\0...", "is an SQLite database, not text; save its rows as .jsonl"),
        (b"{\\rtf1 text}", "is an RTF document"),
        (b"GGUF\3\0\0\0", "is a GGUF model"),
        (b"name".ljust(257, b"\0") + b"ustar\0", "is a tar archive"),
        ("text".encode("utf-16"), "is UTF-16 text .its first bytes say so.; save it as UTF-8"),
        ("text".encode("utf-16-le"), "is UTF-16 text .every other byte is NUL."),
        ("t\xe9xt".encode("utf-16-be"), "is UTF-16 text .every other byte is NUL."),
        (b"te\0xt", "is binary .NUL byte at position 2"),
        (b"\0\0\0\0", "is binary .NUL byte at position 0"),
        ("caf\xe9".encode("latin-1"), "is no UTF-8 text .byte 0xe9 at position 3"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_no_text_is_named(data, said, pack, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(pack(data))
    with pytest.raises(DataError, match=f"it: {said}"):
        files.decode(contents(path), "it")


def test_what_cannot_be_read_twice_or_is_not_there_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to("gone.txt")
    (tmp_path / "file").write_text("text")
    for name, said in (
        (tmp_path / "fifo", "is a pipe, and a text is read more than once; write what comes out of it to a file"),
        ("/dev/zero", "is a device"),
        (tmp_path / "loop", "is a link that leads back to itself"),
        (tmp_path / "dangling", "is a link to gone.txt, which is not there"),
        (tmp_path / "file" / "x", "no such file .a part of its path is no folder"),
        (tmp_path / "none", "no such file$"),
        (tmp_path, "is a folder; name a file in it"),
        ("x" * 5000, "no such file .no name is that long"),
        ("~no-such-user/x", "no such file .~no-such-user is no user here"),
        ("a\0b", "no such file"),
    ):
        with pytest.raises(DataError, match=f"^it: {said}"):
            files.find(str(name), "it")
    assert files.find(str(tmp_path), "it", folders=True) == tmp_path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_more_text_than_memory_can_hold_is_refused_before_it_is_held(pack, tmp_path, monkeypatch):
    path = tmp_path / "notes"
    path.write_bytes(pack(b"a" * 1000))
    monkeypatch.setattr(memory, "available", lambda: 2000)
    assert len(contents(path)) == 1000
    monkeypatch.setattr(memory, "available", lambda: 1998)
    with pytest.raises(
        DataError, match="it: holds .* GiB or more of text, which do not fit into the .* of free memory"
    ):
        contents(path)
