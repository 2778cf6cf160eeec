"""The folder of `analysis prune`: what is altered is never shown, and what cannot be written is refused first."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.commands import out_folder
from analysis.errors import StoreError
from tests.helpers.world import arguments


def rewritten(change):
    """Changes summary.json as somebody would by hand."""

    def alter(out: Path) -> None:
        summary = json.loads((out / "summary.json").read_text())
        change(summary)
        (out / "summary.json").write_text(json.dumps(summary))

    return alter


def replaced(name: str, by: str | None = None):
    """Puts a text, or a folder, in place of a file."""

    def alter(out: Path) -> None:
        (out / name).unlink(missing_ok=True)
        (out / name).mkdir() if by is None else (out / name).write_text(by)

    return alter


def emptied(out: Path) -> None:
    rewritten(lambda summary: summary.update(files={}))(out)
    weights = out / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


ALTERED = {
    "a perplexity": (rewritten(lambda s: s["perplexity"]["calibration"].update(pruned=1.0)), "summary.json is altered"),
    "a key": (rewritten(lambda s: s.pop("perplexity")), "summary.json is altered"),
    "the digest": (rewritten(lambda s: s.pop("digest")), "summary.json is altered"),
    "the request": (rewritten(lambda s: s.update(request="x")), "another request"),
    "the files and the model": (emptied, "summary.json is altered"),
    "a list": (replaced("summary.json", "[]"), "it holds a list, not an object"),
    "null": (replaced("summary.json", "null"), "it holds a NoneType"),
    "deep": (replaced("summary.json", "[" * 200_000), "is not readable JSON"),
    "less deep": (replaced("summary.json", '{"a":' * 700 + "1" + "}" * 700), "is not readable JSON"),
    "no JSON": (replaced("summary.json", "{"), "is not readable JSON"),
    "a folder": (replaced("summary.json"), "it is no file"),
    "a file more": (
        lambda out: (out / "model" / "adapter.safetensors").write_text("x"),
        "adapter.safetensors has been",
    ),
    "a file less": (lambda out: (out / "model" / "config.json").unlink(), "model/config.json is missing"),
    "a file changed": (lambda out: (out / "model" / "config.json").write_text("{}"), "model/config.json is altered"),
    "a fifo for a table": (
        lambda out: ((out / "blocks.csv").unlink(), os.mkfifo(out / "blocks.csv")),
        "blocks.csv is missing",
    ),
}


@pytest.mark.parametrize("case", ALTERED)
def test_what_is_altered_is_one_clear_error(case, pruned, copied):
    alter, says = ALTERED[case]
    request = json.loads((pruned / "summary.json").read_text())["request"]
    out = copied()
    assert out_folder.state(out, request) == "complete"
    alter(out)
    with pytest.raises(StoreError, match=says):
        out_folder.state(out, request)


def test_files_beside_the_results_change_nothing(pruned, copied):
    out = copied()
    (out / "notes.txt").write_text("mine")
    (out / "model" / ".DS_Store").write_text("the system's")
    assert out_folder.state(out, json.loads((pruned / "summary.json").read_text())["request"]) == "complete"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.write_text("[]")])
def test_a_request_that_is_none_is_one_clear_error(make, tmp_path):
    make(tmp_path / ".request.json")
    with pytest.raises(StoreError, match="request.json is not readable JSON"):
        out_folder.state(tmp_path, {})


def test_a_lock_that_is_a_folder_is_one_clear_error(small_world, tmp_path, capsys):
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    assert main(arguments(small_world, tmp_path / "out")) == 6
    said = capsys.readouterr().err
    assert ".lock: " in said and said.count("\n") == 1 and (tmp_path / "out" / ".lock").is_dir()


def test_a_complete_folder_is_shown_where_nothing_can_be_written(small_world, copied, monkeypatch, capsys):
    out = copied()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(
        "analysis.commands.out_folder.release", lambda _: (_ for _ in ()).throw(PermissionError(13, ""))
    )
    assert main(arguments(small_world, out)) == 0
    assert "50.00%" in capsys.readouterr().out
    assert main(arguments(small_world, out, task=f"{small_world}/tasks.jsonl")) == 6
    assert "no permission to write" in capsys.readouterr().err


@pytest.mark.parametrize(
    "place, code, says",
    [
        ("dangling", 2, "dangling is a link to nowhere, which is not there"),
        ("dangling/below", 2, "dangling is a link to nowhere"),
        ("file/below", 2, "file is a file"),
        ("circle", 2, "circle is a link to circle"),
        ("x" * 300, 6, "the name is too long; choose a shorter one"),
        ("new/" + "x" * 300, 6, "the name is too long"),
        ("~nosuchuser/out", 2, "there is no user"),
        ("/proc/out", 6, "error: --out: /proc/out: "),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_the_model_is_loaded(place, code, says, small_world, tmp_path, capsys):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_text("")
    before = set(tmp_path.rglob("*"))
    out = place if place.startswith("~") else tmp_path / place
    assert main(arguments(small_world, out)) == code
    said = capsys.readouterr().err
    assert re.search(re.escape(says), said) and "loading" not in said and said.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_after_an_error_before_the_work_nothing_is_left(small_world, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(116, "Stale file handle", "weights")

    monkeypatch.setattr("analysis.study.run.Bench.prepare", fail)
    assert main(arguments(small_world, tmp_path / "deep" / "out")) == 6
    assert "weights: the disk or its connection failed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_answers_are_placed_together_even_after_a_kill(copied, monkeypatch):
    out = copied()
    summary = out_folder.read(out / "summary.json")
    request, tables = summary["request"], {"zero_shot": b"task\n", "cost": b"unit\n"}

    def kill(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(out_folder, "_settle", kill)
        out_folder.place_answers(out, tables, summary | {"zero_shot": {"x": {}}})
    shutil.copy(out / ".answers.json", out / "kept")
    (out / "cost.csv").write_text("half of it has been written")
    out_folder.settle(out)
    assert out_folder.state(out, request) == "complete" and not (out / ".answers.json").exists()
    assert (out / "cost.csv").read_bytes() == b"unit\n"
    assert out_folder.read(out / "summary.json")["zero_shot"] == {"x": {}}
    (out / ".answers.json").write_text(json.dumps({"model/config.json": "{}", "../outside": "x"}))
    out_folder.settle(out)
    assert out_folder.state(out, request) == "complete" and not (out.parent / "outside").exists()
