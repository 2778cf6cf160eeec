"""Run folders: complete or done again. Torn, altered and foreign folders are never served, and errors say what to
do.
"""

import errno
import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from analysis import paths, schema, storage
from analysis.errors import StoreError
from analysis.study import store
from analysis.study.store import RunFolder, list_runs
from tests.helpers.fakes import tables

DIGEST = "0123456789abcdef" * 4
FILES = ["job.json", "provenance.json", *(f"{name}.parquet" for name, table in tables().items() if len(table))]


@pytest.fixture
def folder(home):
    return RunFolder(DIGEST)


def do(folder: RunFolder, scale: float = 1.0):
    with folder.hold():
        folder.begin({"model": "m", "seed": 3})
        folder.checkpoint.mkdir(exist_ok=True)
        (folder.checkpoint / "unit-0").write_text("half a model")
        return folder.write(tables(scale), {"source": "s"})


@pytest.mark.slow
def test_a_run_is_read_back_as_written(folder, home):
    assert folder.read() is None
    written = do(folder)
    read = folder.read()
    for name in schema.TABLES:
        pd.testing.assert_frame_equal(read.tables[name], schema.validate(name, tables()[name]), check_exact=True)
        pd.testing.assert_frame_equal(read.tables[name], written.tables[name], check_exact=True)
    assert read.provenance == {"source": "s"}
    assert folder.path == home / "runs" / "prune-0123456789ab"
    assert sorted(os.listdir(folder.path)) == sorted([*FILES, "manifest.json"]), (
        "checkpoint and temporary files are gone"
    )
    assert read.manifest["digest"] == DIGEST and {"torch", "python"} <= set(read.manifest["versions"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_never_served(folder, name, caplog):
    do(folder)
    path = folder.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert folder.read() is None
    assert "prune-0123456789ab is altered" in caplog.text
    do(folder, scale=2.0)
    assert folder.read().tables["blocks"].error[0] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_never_served(folder, name):
    do(folder)
    (folder.path / name).unlink()
    assert folder.read() is None


def rewrite(folder: RunFolder, **changes) -> None:
    """The manifest with some of its values changed; None: left out."""
    path = folder.path / "manifest.json"
    manifest = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"schema": 1}', b"[" * 200000, b'{"a":' * 200000])
def test_a_broken_manifest_is_never_served(folder, content):
    do(folder)
    (folder.path / "manifest.json").write_bytes(content)
    assert folder.read() is None and [info.state for info in list_runs()][0] in ("altered", "foreign")
    assert do(folder).tables["cost"].seconds[0] == 0.25


def test_a_manifest_that_lacks_something_is_never_served(folder):
    do(folder)
    whole = (folder.path / "manifest.json").read_bytes()
    for key in ("versions", "created", "files", "digest"):
        for value in (None, 3, []):
            (folder.path / "manifest.json").write_bytes(whole)
            rewrite(folder, **{key: value})
            assert folder.read() is None and [info.state for info in list_runs()] == ["altered"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
@pytest.mark.parametrize("name", ["manifest.json", "job.json", "blocks.parquet", "checkpoint"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_a_pipe_a_folder_or_a_loose_link_in_the_place_of_a_file_is_cleared_away(folder, name, make):
    do(folder)
    (folder.path / name).unlink(missing_ok=True)
    make(folder.path / name)
    assert (folder.read() is None) is (name != "checkpoint") and len(list_runs()) == 1
    (folder.path / "manifest.json").unlink() if name == "checkpoint" else None
    assert do(folder).tables["cost"].seconds[0] == 0.25 and folder.read() is not None


@pytest.mark.slow
def test_a_run_of_another_version_of_a_library_is_served_with_one_warning(folder, caplog):
    store._warn_once.cache_clear()
    do(folder)
    assert folder.read() is not None and not caplog.text
    rewrite(folder, versions=storage.environment() | {"torch": "2.1.9", "pandas": "0.1"})
    assert folder.read() is not None and folder.read() is not None
    (said,) = caplog.messages
    assert f"torch 2.1, here {storage.libraries()['torch']}" in said and "pandas" not in said and "compute" in said
    store._warn_once.cache_clear()


def test_patches_of_a_library_are_the_same_version():
    assert storage.libraries({"torch": "2.13.1+cpu", "transformers": "5.0.0rc1"}) == {
        "torch": "2.13",
        "transformers": "5.0",
    }
    assert storage.libraries({}) == {"torch": "unknown", "transformers": "unknown"}


def test_a_listing_reads_no_table(folder, monkeypatch):
    do(folder)
    read, bytes_of = [], store._bytes
    monkeypatch.setattr(store, "_bytes", lambda path: read.append(path.name) or bytes_of(path))
    assert [info.state for info in list_runs()] == ["complete"] and sorted(read) == ["job.json", "manifest.json"]
    (folder.path / "job.json").write_text('{"job": [1], "digest": 3}')
    assert [(info.state, info.job) for info in list_runs()] == [("altered", {})]


def test_a_table_of_another_shape_is_never_served(folder):
    """Consistent with its manifest, but not of today's columns: somebody forgot to raise SCHEMA."""
    do(folder)
    path = folder.path / "blocks.parquet"
    pd.read_parquet(path).rename(columns={"kind": "sort"}).to_parquet(path)
    manifest = json.loads((folder.path / "manifest.json").read_text())
    manifest["files"]["blocks.parquet"] = storage.sha256(path.read_bytes())
    (folder.path / "manifest.json").write_text(json.dumps(manifest))
    assert folder.read() is None


@pytest.mark.slow
def test_another_schema_is_never_served(folder, monkeypatch):
    do(folder)
    monkeypatch.setattr(storage, "SCHEMA", storage.SCHEMA + 1)
    assert folder.read() is None
    assert [info.state for info in list_runs()] == ["foreign"]
    do(folder)
    assert folder.read() is not None


def test_a_folder_renamed_is_never_served(folder):
    do(folder)
    other = RunFolder("f" * 64)
    shutil.copytree(folder.path, other.path)
    assert other.read() is None


def test_begin_keeps_only_the_checkpoint_of_the_same_run(folder):
    folder.begin({"model": "m"})
    folder.checkpoint.mkdir()
    (folder.checkpoint / "unit-0").write_text("half")
    (folder.path / "blocks.parquet").write_text("torn")
    (folder.path / ".cost.parquet.77.partial").write_text("torn")
    folder.begin({"model": "the same by another name"})
    assert sorted(os.listdir(folder.path)) == ["checkpoint", "job.json"]
    (folder.path / "job.json").write_text('{"schema": 1, "digest": "of something else"}')
    folder.begin({"model": "m"})
    assert os.listdir(folder.path) == ["job.json"]


def test_a_complete_folder_that_is_redone_starts_from_nothing(folder):
    do(folder)
    folder.checkpoint.mkdir()
    (folder.path / "blocks.parquet").unlink()
    folder.begin({"model": "m"})
    assert os.listdir(folder.path) == ["job.json"]


def test_a_file_where_the_folder_should_be(folder):
    folder.path.parent.mkdir(parents=True)
    folder.path.write_text("not a folder")
    for attempt in (folder.read, lambda: folder.begin({})):
        with pytest.raises(StoreError, match="prune-0123456789ab"):
            attempt()
    assert folder.path.read_text() == "not a folder"


def test_a_home_that_is_a_file(folder, home):
    home.write_text("a file")
    assert folder.read() is None
    with pytest.raises(StoreError, match="ANALYSIS_HOME"), folder.hold():
        pass


def test_what_cannot_be_removed_is_an_error(folder, monkeypatch):
    do(folder)
    folder.checkpoint.mkdir()

    def refuse(path, **options):
        if not options:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(StoreError, match="permission denied.*ANALYSIS_HOME"):
        folder.begin({"model": "m"})


def test_a_refused_table_leaves_nothing_that_looks_complete(folder):
    folder.begin({})
    with pytest.raises(StoreError, match="table cost"):
        folder.write(tables() | {"cost": pd.DataFrame({"seconds": [1.0]})}, {})
    assert os.listdir(folder.path) == ["job.json"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_a_full_disk_leaves_nothing_that_looks_complete(folder, home):
    """A limit on the size of files stands for a full disk: the write itself fails, in the middle of a file."""
    code = f"""
import resource, signal
from analysis.errors import StoreError
from analysis.study.store import RunFolder
from tests.helpers.fakes import tables
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = RunFolder("{DIGEST}")
folder.begin({{"model": "m"}})
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
try:
    folder.write(tables(), {{}})
except StoreError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
        env={**os.environ, "ANALYSIS_HOME": str(home)},
    )
    assert "File too large" in done.stdout and "ANALYSIS_HOME" in done.stdout, done.stderr
    left = os.listdir(folder.path)
    assert "manifest.json" not in left and not any("partial" in name for name in left)
    assert folder.read() is None
    do(folder)
    assert folder.read() is not None


@pytest.mark.slow
def test_list_runs_tells_what_each_folder_is(folder):
    assert list_runs() == []
    do(folder)
    altered, torn, foreign = (RunFolder(letter * 64) for letter in "abc")
    do(altered)
    (altered.path / "cost.parquet").unlink()
    torn.begin({"model": "m"})
    do(foreign)
    manifest = foreign.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"schema": {storage.SCHEMA}', '"schema": 0'))
    (paths.runs() / "notebooks").mkdir()
    runs = {info.run: info for info in list_runs()}
    assert {name: info.state for name, info in runs.items()} == {
        folder.name: "complete",
        altered.name: "altered",
        torn.name: "incomplete",
        foreign.name: "foreign",
    }
    assert (
        runs[folder.name].job == {"model": "m", "seed": 3}
        and runs[folder.name].created
        and runs[folder.name].size_mib > 0
    )
    assert list_runs()[0].run == folder.name, "complete ones first"


@pytest.mark.slow
def test_importing_the_store_loads_no_torch():
    code = "import sys, analysis.study.store, analysis.schema; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)
