"""Files and folders on disk: whole or not at all, one writer at a time, the system's errors in words."""

import errno
import json
import os
import subprocess
import sys
import threading

import pytest
from safetensors import SafetensorError

from analysis import paths, storage
from analysis.errors import StoreError


def test_a_file_is_written_whole_in_a_folder_that_is_made(tmp_path):
    storage.write(tmp_path / "a" / "b.txt", "wörter")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "wörter".encode()
    storage.write(tmp_path / "a" / "b.txt", b"bytes")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"bytes" and len(list((tmp_path / "a").iterdir())) == 1


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_what_fails_on_the_way_leaves_what_was_there(tmp_path, stop):
    storage.write(tmp_path / "b.json", "before")
    storage.write(tmp_path / "folder" / "b.json", "before")
    with pytest.raises(stop), storage.replacing(tmp_path / "b.json") as partial:
        partial.write_text("half")
        assert partial.suffix == ".json" and partial.parent == tmp_path, "writers choose a format by the suffix"
        raise stop
    with pytest.raises(stop), storage.replacing_folder(tmp_path / "folder") as fresh:
        (fresh / "b.json").write_text("half")
        raise stop
    assert (tmp_path / "b.json").read_text() == (tmp_path / "folder" / "b.json").read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["b.json", "folder"]


def test_a_pipe_is_not_made_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device, a pipe or a socket, not a file") as raised:
        storage.write(tmp_path / "pipe", "x")
    assert raised.value.filename == str(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_folder_takes_the_place_of_another(tmp_path):
    storage.write(tmp_path / "folder" / "old", "old")
    with storage.replacing_folder(tmp_path / "folder") as fresh:
        (fresh / "new").write_text("new")
        assert os.listdir(tmp_path / "folder") == ["old"], "nothing is replaced before the body ends"
    assert os.listdir(tmp_path / "folder") == ["new"] and os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_that_a_library_made_for_its_owner_alone_gets_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    with storage.replacing(tmp_path / "a.safetensors") as path:
        path.touch(0o600)
    with storage.replacing_folder(tmp_path / "model") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "b").touch(0o600)
    with storage.placing(tmp_path / "figures", "c") as folder:
        (folder / "c").touch(0o600)
        (folder / "run").touch(0o700)
    for name in ("a.safetensors", "model/deep/b", "figures/c"):
        assert (tmp_path / name).stat().st_mode == usual, name
    assert (tmp_path / "figures" / "run").stat().st_mode == usual | 0o100


def test_partial_folders_of_killed_writers_can_be_removed(tmp_path):
    for name in (".model-x1", ".model-x2", ".models-x3", "model"):
        (tmp_path / name).mkdir()
    storage.remove_partial_folders(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == [".models-x3", "model"]


def test_hashes_see_content_alone(tmp_path):
    (tmp_path / "a").write_bytes(bytes(5_000_000))
    assert storage.file_sha256(tmp_path / "a") == storage.sha256(bytes(5_000_000)) != storage.sha256(b"")


def test_an_identity_has_the_schema_in_it(monkeypatch):
    before = storage.identity_digest({"a": 1, "b": [2]})
    assert storage.identity_digest({"b": [2], "a": 1}) == before != storage.identity_digest({"a": 1, "b": [3]})
    monkeypatch.setattr(storage, "SCHEMA", storage.SCHEMA + 1)
    assert storage.identity_digest({"a": 1, "b": [2]}) != before


def test_versions_of_what_is_not_there():
    assert storage.versions("numpy", "no-such-package")["no-such-package"] == "not installed"
    assert {"python", "machine", "torch"} <= set(storage.environment())


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), "run 7: x.bin: no space left; free some"),
        (OSError(errno.EROFS, "Read-only file system", "x.bin"), "run 7: x.bin: permission denied; choose"),
        (OSError(errno.EFBIG, "File too large"), "run 7: File too large; mend"),
        (OSError(errno.ESTALE, "Stale file handle", b"x.bin"), "run 7: x.bin: the disk or its connection failed; look"),
        (OSError(errno.ENOLCK, "No locks available", "run 7"), "run 7: its file system has no locks to give; choose a"),
        (OSError("words alone\nand more"), "run 7: words alone; mend"),
        (OSError(), "run 7: OSError; mend"),
    ],
)
def test_errors_of_the_system_in_words(error, said):
    with pytest.raises(StoreError) as caught, storage.explained("run 7"):
        raise error
    assert str(caught.value).startswith(said)
    with pytest.raises(StoreError, match="; ask somebody$"), storage.explained("run 7", "ask somebody"):
        raise error


def test_errors_name_the_file_and_not_its_temporary_name(tmp_path):
    for error in (OSError(errno.ENOSPC, "full", "a.partial"), SafetensorError("I/O error: (os error 28)")):
        with pytest.raises(OSError) as caught, storage.replacing(tmp_path / "b"):
            raise error
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "b"))
    with pytest.raises(SafetensorError), storage.replacing(tmp_path / "b"):
        raise SafetensorError("another mistake")


def test_a_lock_is_waited_for_or_refused(tmp_path):
    held, go, order = threading.Event(), threading.Event(), []

    def hold():
        with storage.locked(tmp_path / "a" / "lock", pytest.fail):
            held.set()
            go.wait(10)
            order.append("first")

    def refuse():
        raise StoreError("held")

    first = threading.Thread(target=hold)
    first.start()
    assert held.wait(10)
    with pytest.raises(StoreError, match="held"), storage.locked(tmp_path / "a" / "lock", refuse):
        pass
    with storage.locked(tmp_path / "a" / "lock", go.set):
        order.append("second")
    first.join()
    assert order == ["first", "second"]


def test_importing_it_loads_nothing_heavy():
    code = "import sys, json, analysis.storage; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pandas"} & set(json.loads(done.stdout))


@pytest.mark.parametrize("text", ["{", "[" * 200_000, "1" * 5000, b"\xff\xfe", ""])
def test_what_is_no_json_is_one_kind_of_error(tmp_path, text):
    with pytest.raises(ValueError):
        storage.parse_json(text)
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError):
        storage.read_json(tmp_path / "a.json")


def test_a_pipe_is_no_json_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    for name in ("a.json", "b.json"):
        with pytest.raises(FileNotFoundError):
            storage.read_json(tmp_path / name)
