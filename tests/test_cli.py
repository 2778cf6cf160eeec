"""The command line: one clear message for every wrong call, complete folders for right ones, resume after a kill."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis import paths
from analysis.cli import main
from analysis.commands.common import Report
from analysis.errors import UsageError
from analysis.study.job import Job
from tests.helpers.processes import fork
from tests.helpers.streamed import same_tensors, saved_tensors
from tests.helpers.world import BLOCKS, WORDS, arguments, build_model


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a tiny model and tokenizer (`model`), texts, and things that are broken."""
    folder = tmp_path_factory.mktemp("world")
    draw = random.Random(0)
    documents = [" ".join(draw.choices(WORDS, k=60)) for _ in range(60)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    (folder / "other.txt").write_text("\n\n".join(" ".join(draw.choices(WORDS, k=60)) for _ in range(20)))
    (folder / "short.txt").write_text("the cat sees")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (folder / "file").write_text("not a folder")
    questions = [
        {"query": f"the {word} sees", "choices": ["a cat", "the old dog"], "gold": n % 2}
        for n, word in enumerate(WORDS)
    ]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, questions)))
    build_model(folder / "model", documents)
    break_models(folder)
    return folder


def break_models(folder: Path) -> None:
    config = (folder / "model" / "config.json").read_bytes()
    weights = (folder / "model" / "model.safetensors").read_bytes()
    for name, files in {
        "no-config": {"model.safetensors": weights},
        "bad-config": {"config.json": b"{", "model.safetensors": weights},
        "no-weights": {"config.json": config},
        "torn-weights": {"config.json": config, "model.safetensors": weights[: len(weights) // 2]},
        "pickle": {"config.json": config, "pytorch_model.bin": b"\x80\x02."},
    }.items():
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)


WRONG = {  # name: (changes to a right call, exit code, what the message must say)
    "unknown criterion": ({"recipe": "wonda-50% BR"}, 2, "wonda.*wanda"),
    "unknown method": ({"recipe": "wanda-50% BR+XY"}, 2, "BR[+]XY"),
    "sparsity above one": ({"recipe": "wanda-150% BR"}, 2, "150"),
    "keeps more than there are": ({"recipe": "wanda-3:2 BR"}, 2, "3:2"),
    "several mistakes in a recipe": ({"recipe": "wonda-150% BR+XY"}, 2, "wonda.*150.*XY"),
    "no recipe": ({"recipe": None}, 2, "--recipe"),
    "two recipes": ({"recipe_file": "{world}/text.txt"}, 2, "once"),
    "missing recipe file": ({"recipe": None, "recipe_file": "{world}/none.toml"}, 2, "none.toml"),
    "broken recipe file": ({"recipe": None, "recipe_file": "{world}/text.txt"}, 2, "recipe|TOML"),
    "binary recipe file": ({"recipe": None, "recipe_file": "{world}/binary.txt"}, 2, "binary.txt"),
    "missing model": ({"model": "{world}/nothing"}, 3, "nothing"),
    "model without config": ({"model": "{world}/no-config"}, 3, "config.json"),
    "model with broken config": ({"model": "{world}/bad-config"}, 3, "config.json"),
    "model without weights": ({"model": "{world}/no-weights"}, 3, "no-weights"),
    "model with torn weights": ({"model": "{world}/torn-weights"}, 3, "torn-weights"),
    "model as a pickle": ({"model": "{world}/pickle"}, 3, "could run code"),
    "model that is a file": ({"model": "{world}/text.txt"}, 3, "text.txt"),
    "missing text": ({"calibration": "{world}/nothing.txt"}, 4, "nothing.txt"),
    "empty text": ({"calibration": "{world}/empty.txt"}, 4, "empty.txt"),
    "binary text": ({"calibration": "{world}/binary.txt"}, 4, "binary.txt"),
    "too short text": ({"held_out": "{world}/short.txt"}, 4, "short.txt.*hold"),
    "more windows than the text holds": ({"held_out_samples": 100_000}, 4, "100,?000"),
    "overlap": ({"held_out": "again={world}/text.txt[:70%]"}, 4, "overlap"),
    "bad slice": ({"calibration": "{world}/text.txt[150%:]"}, 2, "150%"),
    "window longer than the context": ({"length": 65}, (2, 4), "65.*64"),
    "zero samples": ({"samples": 0}, 2, "--samples.*0"),
    "negative held-out samples": ({"held_out_samples": -1}, 2, "--held-out-samples.*-1"),
    "length of one": ({"length": 1}, 2, "--length.*1"),
    "negative seed": ({"seed": -1}, 2, "--seed.*-1"),
    "a count that is no number": ({"samples": "many"}, 2, "--samples.*many"),
    "out is a file": ({"out": "{world}/file"}, 2, "file"),
    "out runs through a file": ({"out": "{world}/file/out"}, 2, "file"),
    "out holds something else": ({"out": "{world}/model"}, 6, "config.json"),
    "unknown register": ({"calibration": "lab:storys"}, 2, "storys.*stories"),
    "unknown hub alias": ({"calibration": "hub:wikitext"}, 2, "wikitext2"),
    "unknown device": ({"device": "tpu"}, 2, "tpu"),
    "unknown dtype": ({"dtype": "int3"}, 2, "int3"),
    "unknown mode": ({"mode": "sideways"}, 2, "sideways"),
    "two texts of one label": (
        {"held_out": ["{world}/text.txt[70%:]", "text.txt[70%:]={world}/other.txt"][:1] * 2},
        2,
        "two texts",
    ),
    "reserved label": ({"held_out": "calibration={world}/other.txt"}, 2, "calibration"),
    "added without a number": ({"added": "{world}/other.txt"}, 2, "--added and --added-samples go together"),
    "a number of nothing added": ({"added_samples": 4}, 2, "--added and --added-samples go together"),
    "fewer than none added": (
        {"recipe": "wanda-50% BR", "added": "{world}/other.txt", "added_samples": -4},
        2,
        "--added-samples must be a whole number of at least 0, got -4",
    ),
    "added for nobody": ({"added": "{world}/other.txt", "added_samples": 4}, 2, "nothing would see these windows"),
    "shrinking of single weights": (
        {"shrink": [""], "recipe": "wanda-50% LR"},
        2,
        "--shrink: wanda-50% LR removes single weights.*flap-neurons-50%",
    ),
    "a repair that no folder can hold": (
        {"recipe": "influence-blocks-1 ghost"},
        2,
        "--recipe: influence-blocks-1 ghost leaves a linear map between blocks, .* refit or replace",
    ),
    "a repair of single weights": ({"recipe": "wanda-50% LIAR"}, 2, "LIAR makes up for whole structures"),
    "nothing added for all": ({"recipe": "wanda-50%[added=all] BR"}, 2, "none are added"),
    "added text that is missing": (
        {"recipe": "wanda-50% BR", "added": "{world}/nothing.txt", "added_samples": 4},
        4,
        "nothing.txt",
    ),
    "added text that is held out": (
        {"recipe": "wanda-50% BR", "added": "{world}/text.txt[70%:]", "added_samples": 4},
        4,
        "overlap",
    ),
    "calibration text under another name": (
        {"recipe": "wanda-50% BR", "added": "{world}/text.txt[:70.0%]", "added_samples": 8},
        4,
        "8 of 8 windows are calibration windows",
    ),
    "unknown task": ({"task": "lab:story-endign"}, 2, "story-endign.*story-ending"),
    "no questions": (
        {"task": "lab:yes-no", "documents": 1},
        2,
        "--documents must be a whole number of at least 2, got 1",
    ),
    "validation that nothing is chosen on": (
        {"validation": "lab:stories"},
        2,
        "--validation: .* selects nothing on it",
    ),
    "validation that is held out": (
        {"recipe": "wanda-50% BR[select=held-out]", "validation": "{world}/text.txt[80%:]"},
        4,
        "validation .* and held-out .* hold the same documents",
    ),
    "whole structures of a streamed model": (
        {"placement": "streamed", "recipe": "flap-neurons-50% LR"},
        2,
        "removes whole structures, .* take placement=resident",
    ),
    "held-out text every no epoch": ({"held_out_every": 0}, 2, "--held-out-every must be a whole number .* got 0"),
    "a whole text without an end": (
        {"held_out": "lab:stories", "full_test": ""},
        2,
        "--full-test: lab:stories/held-out: lab text has no end",
    ),
    "no out": ({"out": None}, 2, "--out"),
    "no held-out": ({"held_out": None}, 2, "--held-out"),
}


def filled(value, world: Path):
    if isinstance(value, list):
        return [filled(each, world) for each in value]
    return value.replace("{world}", str(world)) if isinstance(value, str) else value


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_gives_one_message_and_no_traceback(case, world, tmp_path, capsys):
    changes, code, says = WRONG[case]
    out = tmp_path / "out"
    changes = {"out": out} | {name: filled(value, world) for name, value in changes.items()}
    codes = code if isinstance(code, tuple) else (code,)
    assert main(arguments(world, **changes)) in codes
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and printed.out == "", printed
    assert re.search(says, errors[0], re.IGNORECASE), errors[0]
    assert "Traceback" not in printed.err
    assert not out.exists(), f"left behind: {list(out.rglob('*'))}"


def test_all_mistakes_are_told_at_once_before_the_model_is_touched(world, tmp_path, capsys):
    argv = arguments(
        world, tmp_path / "out", recipe="wonda-50% BR", calibration="lab:storys", samples=0, model=world / "nothing"
    )
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("4 things", "wonda", "storys", "--samples", "nothing")), message
    assert "loading" not in message


@pytest.mark.slow
def test_wrong_arguments_load_no_torch(world, tmp_path):
    argv = arguments(world, tmp_path / "out", recipe="wonda-50% BR")
    code = f"import sys; from analysis.cli import main; print(main({argv!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "2 False", done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["prune"],
        ["purne"],
        ["list"],
        ["list", "nothing"],
        ["lab"],
        ["prune", "m", "--reci", "x"],
        ["check", "m", "--nope"],
    ],
)
def test_unknown_verbs_and_flags_exit_2_with_a_hint(argv, capsys):
    assert main(argv) == 2
    assert re.fullmatch(r"error: .*--help`\)\n", capsys.readouterr().err)


@pytest.mark.parametrize("verb", [[], ["prune"], ["check"], ["evaluate"], ["figures"], ["list"]])
def test_help_has_examples_and_exit_codes(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*verb, "--help"])
    text = capsys.readouterr().out
    assert "exit codes:" in text
    assert not verb or f"analysis {verb[0]} " in text.split("examples:")[1]


@pytest.mark.slow
def test_python_m_analysis_is_the_command():
    done = subprocess.run([sys.executable, "-m", "analysis", "prune"], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> Path:
    """The folder of one right call with two held-out texts."""
    out = tmp_path_factory.mktemp("right") / "deep" / "out"
    texts = [f"{world}/text.txt[70%:]", f"other={world}/other.txt"]
    assert (
        main(arguments(world, out, recipe="wanda-50% BR+GP[epochs=2,lr=1e-3]", held_out=texts, held_out_samples=6)) == 0
    )
    return out


def test_prune_writes_every_file(finished):
    tables = {
        f"{name}.csv"
        for name in (
            "blocks",
            "distribution",
            "steps",
            "cost",
            "matrices",
            "structures",
            "layers",
            "experts",
            "positions",
            "perplexity",
            "scores",
            "texts",
            "size",
            "zero_shot",
            "numerics",
        )
    }
    assert {path.name for path in finished.iterdir()} == tables | {"model", "summary.json"}
    blocks = pd.read_csv(finished / "blocks.csv")
    assert list(blocks.columns)[:5] == ["block", "split", "kind", "error", "relative_error"]
    assert set(blocks.split) == {"calibration", "text.txt[70%:]", "other"}
    assert len(blocks[blocks.kind == "total"]) == 3 * BLOCKS
    assert set(pd.read_csv(finished / "steps.csv").split) == set(blocks.split)


def test_summary_says_what_was_asked_what_came_out_and_what_it_cost(finished, world):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["recipe"]["text"] == "wanda-50% BR+GP[epochs=2,lr=0.001]" or summary["recipe"]["method"] == "BR+GP"
    assert summary["sparsity"]["overall"] == pytest.approx(0.5)
    assert len(summary["sparsity"]["matrices"]) == 7 * BLOCKS
    assert all(value == pytest.approx(0.5) for value in summary["sparsity"]["matrices"].values())
    assert set(summary["perplexity"]) == {"calibration", "text.txt[70%:]", "other"}
    assert all(of["dense"] > 1 and of["pruned"] > 1 for of in summary["perplexity"].values())
    assert summary["seconds"] > 0 and summary["peak_memory_mib"] > 0
    assert {"torch", "transformers", "python"} <= set(summary["versions"])
    assert summary["provenance"]["calibration"] and summary["provenance"]["held_out"]["other"]
    assert summary["request"]["model content"] == summary["model"]["fingerprint"]
    identity = Job(**summary["job"]).identity()
    asked = {name: identity.pop(name) for name in ("tasks", "documents")}
    request = {name: value for name, value in summary["request"].items() if name != "schema"}
    assert identity == request and not any(asked.values()), "the run that a study would store"


def test_the_model_loads_back_pruned(finished):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    matrices = pd.read_csv(finished / "matrices.csv")
    for row in matrices.itertuples():
        weight = model.get_submodule(f"model.layers.{row.block}.{row.matrix}").weight
        assert torch.count_nonzero(weight) <= row.kept == weight.numel() // 2
    assert AutoTokenizer.from_pretrained(finished / "model")("the cat").input_ids


def test_repeating_a_finished_call_prints_the_result_and_computes_nothing(finished, world, capsys, monkeypatch):
    monkeypatch.setattr("analysis.study.run.Bench.prepare", lambda *_: pytest.fail("loaded the model again"))
    texts = [f"{world}/text.txt[70%:]", f"other={world}/other.txt"]
    argv = arguments(world, finished, recipe="wanda-50% BR+GP[epochs=2,lr=1e-3]", held_out=texts, held_out_samples=6)
    assert main([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((finished / "summary.json").read_text())
    assert "already" in printed.err and "other libraries" not in printed.err
    monkeypatch.setattr("analysis.storage.versions", lambda *names: dict.fromkeys(names, "9.8.7"))
    assert main(argv) == 0
    assert re.search(r"already, of other libraries \(torch [\d.]+, here 9.8; transf", capsys.readouterr().err)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"recipe": "magnitude-50% LR"}, "recipe there .*wanda.* asked .*magnitude"),
        ({"seed": 1}, "seed there 0, asked 1"),
    ],
)
def test_a_folder_with_another_result_is_refused(finished, world, capsys, changes, says):
    before = (finished / "summary.json").read_bytes()
    assert main(arguments(world, finished, **changes)) == 6
    assert re.search(says, capsys.readouterr().err)
    assert (finished / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_json_is_one_document_and_stdout_has_nothing_else(world, tmp_path, capsys):
    assert main([*arguments(world, tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "pruning" in printed.err


@pytest.mark.slow
def test_the_table_for_people_names_every_split_and_where_things_are(world, tmp_path, capsys):
    assert main(arguments(world, tmp_path / "out", recipe="magnitude-2:4 LR", held_out=f"mine={world}/other.txt")) == 0
    out = capsys.readouterr().out
    assert all(
        part in out
        for part in ("magnitude-2:4 LR", "50.00%", "dense perplexity", "calibration", "mine", "summary.json")
    )


@pytest.mark.slow
def test_added_windows_and_tasks_are_in_tables_summary_and_report(world, tmp_path, capsys):
    out = tmp_path / "out"
    changes = {
        "recipe": "wanda-50% BR[epochs=1]",
        "added": f"{world}/other.txt",
        "added_samples": 4,
        "task": f"{world}/tasks.jsonl",
        "documents": 20,
    }
    assert main(arguments(world, out, **changes)) == 0
    printed, summary = capsys.readouterr(), json.loads((out / "summary.json").read_text())
    assert "12 windows (4 of them added) of 16 tokens" in printed.err and "dense accuracy" in printed.out
    assert summary["request"]["added_samples"] == 4 and summary["provenance"]["calibration"]["added"]["samples"] == 4
    texts, answers, cost = (pd.read_csv(out / f"{name}.csv") for name in ("texts", "zero_shot", "cost"))
    assert len(texts) == BLOCKS and summary["final_block_distance"]["text.txt[70%:]"] == texts.distance.iloc[-1]
    assert (
        list(answers.which) == ["dense", "pruned"] and set(answers.documents) == {20} and set(answers.chance) == {0.5}
    )
    (asked,) = summary["zero_shot"].values()
    assert [asked[which]["accuracy"] for which in ("dense", "pruned")] == list(answers.accuracy)
    assert list(cost.stage)[-1] == "tasks"
    assert main(arguments(world, out, **changes)) == 0 and "already" in capsys.readouterr().err


@pytest.mark.slow
def test_an_altered_result_is_not_served(world, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(world, out)) == 0
    (out / "blocks.csv").write_text("block\n")
    assert main(arguments(world, out)) == 6
    assert "blocks.csv is altered" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_the_middle_and_repeated_ends_bit_equal(world, tmp_path, capsys):
    recipe = "sparsegpt-50% BR+GP[epochs=40]"
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = fork(main, arguments(world, killed, recipe=recipe), log=tmp_path / "log")
    while process.is_alive() and not any((killed / ".checkpoint").glob("visit-*.safetensors")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended before it could be killed: {(tmp_path / 'log').read_text()}"
    assert not (killed / "summary.json").exists()
    assert main(arguments(world, killed, recipe="wanda-50% LR")) == 6
    assert "interrupted run of another request" in capsys.readouterr().err
    assert main(arguments(world, killed, recipe=recipe)) == 0
    assert "resuming" in capsys.readouterr().err
    assert main(arguments(world, whole, recipe=recipe)) == 0
    for file in ("model/model.safetensors", "blocks.csv", "steps.csv", "perplexity.csv", "matrices.csv"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.slow
def test_an_interrupt_exits_130_and_says_how_to_resume(world, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("analysis.pruning.loop.prune", interrupt)
        assert main(arguments(world, tmp_path / "out")) == 130
    assert "repeat the same command" in capsys.readouterr().err
    assert main(arguments(world, tmp_path / "out", recipe="wanda-40% LR")) == 0, (
        "nothing was finished, so the folder is free"
    )


def test_a_full_disk_is_seen_before_the_work(world, tmp_path, capsys, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert main(arguments(world, tmp_path / "out")) == 6
    assert re.search("need .* MiB.* free", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number, says", [(28, "no space left"), (13, "permission denied")])
def test_a_disk_that_fails_while_writing_is_explained(world, tmp_path, capsys, monkeypatch, number, says):
    def fail(*_):
        raise OSError(number, "os words", "somewhere")

    monkeypatch.setattr("analysis.commands.out_folder.place_model", fail)
    assert main(arguments(world, tmp_path / "out")) == 6
    assert re.search(f"error: .*somewhere: {says}", capsys.readouterr().err)


def test_a_folder_being_written_is_refused(world, tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert main(arguments(world, tmp_path / "out")) == 6
    assert "another `analysis prune`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_streamed_run_writes_the_model_of_a_resident_one_and_answers_tasks(world, tmp_path, capsys):
    for placement in ("resident", "streamed"):
        asked = {"placement": placement, "recipe": "wanda-50% BR+GP[epochs=1]"}
        asked |= {"task": f"{world}/tasks.jsonl", "documents": 4}
        assert main(arguments(world, tmp_path / placement, **asked)) == 0
    same_tensors(*(saved_tensors(tmp_path / placement / "model") for placement in ("resident", "streamed")))
    for table in ("blocks", "perplexity", "zero_shot"):
        resident, streamed = (tmp_path / placement / f"{table}.csv" for placement in ("resident", "streamed"))
        assert resident.read_text() == streamed.read_text(), table
    assert json.loads((tmp_path / "streamed" / "summary.json").read_text())["provenance"]["placement"] == "streamed"


def test_a_bug_keeps_its_traceback(world, monkeypatch):
    monkeypatch.setattr("analysis.commands.check.check", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["check", str(world / "model")])


@pytest.mark.slow
def test_the_seed_is_also_the_recipes_unless_it_has_its_own(world, tmp_path, capsys):
    for number, (recipe, seed) in enumerate([("random-50% LR", 3), ("random-50% LR[seed=5]", 5)]):
        assert main([*arguments(world, tmp_path / str(number), recipe=recipe, seed=3), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["recipe"]["seed"], summary["request"]["seed"]) == (seed, 3)


@pytest.mark.slow
def test_a_recipe_file_says_the_same_as_its_text(world, tmp_path, capsys):
    from analysis import Recipe

    (tmp_path / "recipe.toml").write_text(Recipe.parse("wanda-50% LR").to_toml())
    assert main([*arguments(world, tmp_path / "out", recipe=None, recipe_file=tmp_path / "recipe.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["text"] == "wanda-50% LR"


@pytest.mark.slow
def test_check_prints_blocks_and_matrices(world, capsys):
    assert main(["check", str(world / "model")]) == 0
    out = capsys.readouterr().out
    assert "model.layers.3" in out and "self_attn.q_proj" in out
    assert main(["check", str(world / "model"), "--text", f"{world}/text.txt", "--length", "16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (
        len(document["replay"]) == BLOCKS
        and max(row["relative_error"] for row in document["replay"]) <= document["tolerance"] == 1e-5
    )
    assert len(document["matrices"]) == 7 * BLOCKS


def test_check_exits_3_above_the_tolerance(world, capsys, monkeypatch):
    from analysis.models import replay

    true_error = replay.replay_error
    monkeypatch.setattr(
        replay, "replay_error", lambda *args, **kwargs: true_error(*args, **kwargs).assign(relative_error=0.2)
    )
    assert main(["check", str(world / "model")]) == 3
    printed = capsys.readouterr()
    assert "model.layers.0" in printed.out and re.search("error: .*0.2", printed.err)


@pytest.mark.slow
def test_evaluate_prints_perplexities(world, capsys):
    argv = [
        "evaluate",
        str(world / "model"),
        "--text",
        f"{world}/text.txt[70%:]",
        "--text",
        f"o={world}/other.txt",
        "--length",
        "16",
    ]
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["perplexity"]
    assert [row["text"] for row in rows] == ["text.txt[70%:]", "o"]
    assert all(row["context"] == 16 and row["windows"] > 0 and row["tokens"] > 0 for row in rows)
    assert main(argv) == 0
    assert "nats per token" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, code, says",
    [
        (["check", "{world}/nothing"], 3, "nothing"),
        (["check", "{world}/model", "--length", "0"], 2, "--length"),
        (["check", "{world}/model", "--text", "{world}/none.txt"], 4, "none.txt"),
        (["evaluate", "{world}/model", "--text", "{world}/none.txt", "--length", "8"], 4, "none.txt"),
        (["evaluate", "{world}/model", "--text", "{world}/text.txt", "--length", "65"], (2, 4), "65.*64"),
        (
            ["evaluate", "{world}/nothing", "--text", "{world}/text.txt", "--length", "8", "--samples", "0"],
            2,
            "nothing",
        ),
    ],
)
def test_wrong_calls_of_the_verbs_that_look(world, capsys, argv, code, says):
    assert main([filled(part, world) for part in argv]) in (code if isinstance(code, tuple) else (code,))
    printed = capsys.readouterr()
    assert printed.out == "" and re.search(f"error: (.|\n)*{says}", printed.err)


@pytest.mark.parametrize(
    "what, says", [("models", "lab"), ("sources", "lab:stories"), ("recipes", "BR+GP+CR"), ("runs", "no runs yet")]
)
def test_list_prints_a_table_or_json(what, says, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "lab", lambda: world / "shipped")
    (world / "shipped" / "decoder").mkdir(parents=True, exist_ok=True)
    (world / "shipped" / "decoder" / "config.json").write_text("{}")
    assert main(["list", what]) == 0
    assert says in capsys.readouterr().out
    assert main(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)[what]
    assert all(isinstance(row, dict) for row in rows) and bool(rows) is (what != "runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, plain", [("flap-neurons-50% LIAR+GP", True), ("fisher-structures-40%[scope=global,flops=16] LIAR", False)]
)
def test_shrinking_writes_a_smaller_model_that_evaluates_alike(recipe, plain, world, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*arguments(world, out, recipe=recipe), "--shrink", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    size = pd.read_csv(out / "size.csv").set_index("which")
    assert (
        summary["size"]["pruned"]["parameters"]
        == size.parameters["pruned"]
        < size.parameters["dense"]
        == summary["size"]["dense"]["parameters"]
    )
    assert pd.read_csv(out / "structures.csv").kept.sum() == sum(of["kept"] for of in summary["structures"].values())
    assert (out / "shrunk" / "model.safetensors").exists() is plain
    perplexities = []
    for name in ("model", "shrunk"):
        assert main(["evaluate", str(out / name), "--text", f"{world}/other.txt", "--length", "16", "--json"]) == 0
        perplexities.append(json.loads(capsys.readouterr().out)["perplexity"][0]["perplexity"])
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)
    assert main(["check", str(out / "shrunk")]) == 0, "a smaller model can be pruned again"
    before = (out / "summary.json").read_bytes()
    assert (
        main([*arguments(world, out, recipe=recipe), "--shrink"]) == 0 and "FLOPs per token" in capsys.readouterr().out
    )
    assert (out / "summary.json").read_bytes() == before
    assert (
        main(arguments(world, out, recipe=recipe)) == 6 and "shrink there True, asked False" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_heads_that_cannot_be_cut_out_are_refused_before_the_work(world, tmp_path, capsys):
    from tests.helpers.families import tiny

    folder = tmp_path / "bloom"
    tiny("bloom").save_pretrained(folder)
    for file in (world / "model").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    asked = arguments(world, tmp_path / "out", model=folder, recipe="flap-heads-50% LIAR")
    assert main([*asked, "--shrink"]) == 3
    said = capsys.readouterr().err
    assert "masks work, smaller matrices do not" in said and "pruning" not in said and not (tmp_path / "out").exists()
    assert main(asked) == 0


def test_list_recipes_explains_every_word_and_every_option(capsys):
    from dataclasses import fields

    from analysis.recipe import words
    from analysis.recipe.recipe import RECIPE_PARTS

    assert main(["list", "recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["recipes"]
    listed = {(row["part"], row["word"]): row["meaning"] for row in rows}
    for part, records in {
        "criterion": words.CRITERION_WORDS | words.STRUCTURED_WORDS | words.DEPTH_WORDS | words.EXPERT_WORDS,
        "refinement": words.REFINEMENT_WORDS,
        "method": words.METHOD_WORDS,
        "unit": words.UNIT_WORDS,
        "settings": words.SETTING_WORDS,
    }.items():
        assert {word for kind, word in listed if kind == part} == set(records)
        assert all(word.meaning in listed[part, word.name] for word in records.values())
    free = {"name", "more", "sparsity", "number", "keep", "of", "kind"}
    options = {f.name for part in RECIPE_PARTS.values() for f in fields(part)} - free
    assert options <= {word for kind, word in listed if kind == "option"}
    assert listed["option", "damping"].startswith("of sparsegpt: ") and "default 0.01" in listed["option", "damping"]


def test_figures_passes_its_arguments_on_and_says_where_things_are(tmp_path, capsys, monkeypatch):
    from analysis.suite import runner

    asked = {}

    def run(preset, *, only, overrides, figures_dir, **more):
        asked.update(preset=preset, only=only, overrides=overrides, figures_dir=figures_dir)
        asked.update({name: more[name] for name in ("workers", "force")})
        return [runner.NotebookRun("01", "completed", 1.5, tmp_path / "01.ipynb")]

    monkeypatch.setattr(runner, "run_suite", run)
    assert (
        main(
            [
                "figures",
                "--preset",
                "smoke",
                "--only",
                "01",
                "--set",
                "epochs=5",
                "--set",
                "model=a=b",
                "--figures",
                str(tmp_path),
                "--workers",
                "3",
                "--force",
                "--json",
            ]
        )
        == 0
    )
    assert asked == {
        "preset": "smoke",
        "only": ["01"],
        "overrides": {"epochs": "5", "model": "a=b"},
        "figures_dir": tmp_path,
        "workers": 3,
        "force": True,
    }
    document = json.loads(capsys.readouterr().out)
    assert document["notebooks"][0]["path"] == str(tmp_path / "01.ipynb") and document["figures"] == str(tmp_path)


@pytest.mark.parametrize("value, code", [(1.0005, 0), (1.1, 7)])
def test_figures_are_drawn_elsewhere_and_compared_with_those_there(value, code, tmp_path, capsys, monkeypatch):
    from analysis.suite import runner

    (tmp_path / "01_first.csv").write_text("method,value\nLR,1.0\n")
    (tmp_path / "02_other.csv").write_text("method,value\nLR,1.0\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def run(preset, *, only, overrides, figures_dir, **more):
        Path(figures_dir, "01_first.csv").write_text(f"method,value\nLR,{value}\n")

    monkeypatch.setattr(runner, "run_suite", run)
    assert main(["figures", "--check", "--only", "01", "--figures", str(tmp_path)]) == code
    said = capsys.readouterr()
    assert "01_first" in said.out and "02_other" not in said.out and f"{100 * (value - 1):.2g} %" in said.out
    assert ("1 of 1 figures are not what comes out now: 01_first" in said.err) == bool(code)
    assert main(["figures", "--check", "--figures", str(tmp_path), "--json"]) == 7  # the other one was not drawn again
    verdicts = [row["verdict"] for row in json.loads(capsys.readouterr().out)["figures"]]
    assert verdicts == ["differs" if code else "same", "not drawn again"]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert main(["figures", "--check", "--figures", str(tmp_path / "none")]) == 2
    assert "no figures lie in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, code, says",
    [
        (["--set", "epochs"], 2, "NAME=VALUE"),
        (["--set", "a=1", "--set", "a=2"], 2, "twice"),
        (["--preset", "none"], 7, "none"),
    ],
)
def test_wrong_calls_of_figures(argv, code, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paths, "notebooks", lambda: tmp_path)
    (tmp_path / "suite.toml").write_text("[presets.lab.all]\n")
    assert main(["figures", *argv]) == code
    assert re.fullmatch(f"error: .*{says}.*\n", capsys.readouterr().err)


def test_lab_train_passes_its_arguments_on_and_prints_the_card(tmp_path, capsys, monkeypatch):
    from analysis.training import decoder

    def train(config, out, *, device):
        assert (config.tokens, config.hidden, device) == (2048, 16, "cpu")
        out.mkdir()
        (out / "training.json").write_text(json.dumps({"parameters": 5, "tokens": config.tokens, "seconds": 1.5}))

    monkeypatch.setattr(decoder, "train", train)
    argv = ["lab", "train", "--out", str(tmp_path / "decoder"), "--tokens", "2048", "--hidden", "16", "--device", "cpu"]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 5


def test_a_folder_without_permission_is_refused_before_the_work(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(arguments(world, tmp_path / "out")) == 6
    assert "no permission" in capsys.readouterr().err


@pytest.mark.slow
def test_saved_weights_are_stored_as_asked_and_the_report_says_so(world, tmp_path, capsys):
    """What is computed in another dtype than it is stored in is said, and another wish is another request."""
    (world / "model" / "LICENSE").write_text("yours")
    out = tmp_path / "out"
    assert main(arguments(world, out, save_dtype="bfloat16")) == 0
    line = f"model    {out / 'model'} (computed in float32, stored in bfloat16; with the original's LICENSE)"
    assert line in capsys.readouterr().out.splitlines()
    saved = json.loads((out / "summary.json").read_text())["saved"]
    assert saved == {"computed in": "float32", "stored in": "bfloat16", "carried over": ["LICENSE"]}
    assert (out / "model" / "LICENSE").read_text() == "yours"
    assert main(arguments(world, out)) == 6 and "another request" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, says",
    [
        (OSError(5, "Input/output error", "a.bin"), 6, "a.bin: the disk or its connection failed; look at it"),
        (OSError(116, "Stale file handle"), 6, "the disk or its connection failed"),
        (OSError(37, "No locks available", "a.lock"), 6, "a.lock: its file system has no locks to give"),
        (NotADirectoryError(20, "Not a directory", "a/b"), 6, "a/b: a part of the path is a file"),
        (OSError("nothing but words\nand more"), 6, "nothing but words; mend"),
        (MemoryError(), 8, "out of memory; finished work is kept"),
        (OSError(12, "Cannot allocate memory"), 8, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 8, "out of memory .Default"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"), 8, "out of memory .CUDA"),
        (KeyboardInterrupt(), 130, "^interrupted$"),
    ],
)
def test_what_the_system_says_is_one_line(error, code, says, capsys, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setattr("analysis.commands.check.check", fail)
    assert main(["check", "model"]) == code
    printed = capsys.readouterr()
    assert re.search(says, printed.err.removeprefix("error: ")) and printed.err.count("\n") == 1 and not printed.out


def test_memory_that_ran_out_below_another_error_is_told(capsys, monkeypatch):
    def fail(_):
        try:
            raise MemoryError("8 TiB")
        except MemoryError as error:
            raise UsageError("the weights do not fit their config") from error

    monkeypatch.setattr("analysis.commands.check.check", fail)
    assert main(["check", "model"]) == 8 and "out of memory (8 TiB)" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_the_allocators_own_words_are_known(library, capsys, monkeypatch):
    monkeypatch.setattr("analysis.commands.check.check", lambda _: pytest.importorskip(library).empty(2**50))
    assert main(["check", "model"]) == 8 and "allocate" in capsys.readouterr().err


@pytest.mark.parametrize("name, code, word", [("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "hung up")])
def test_other_signals_end_a_command_as_an_interrupt_does(name, code, word, capsys, monkeypatch):
    cleaned = []

    def work(_):
        try:
            signal.raise_signal(getattr(signal, name))
            time.sleep(5)
        finally:
            cleaned.append(True)

    before = signal.getsignal(getattr(signal, name))
    monkeypatch.setattr("analysis.commands.check.check", work)
    assert main(["check", "model"]) == code and cleaned
    assert capsys.readouterr().err == f"{word}\n" and signal.getsignal(getattr(signal, name)) is before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(
            "analysis.commands.check.check", lambda _: signal.raise_signal(signal.SIGHUP) or Report("", {})
        )
        assert main(["check", "model"]) == 0, "as nohup wants it"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "number, code, says", [(32, 0, ""), (28, 6, "error: standard output: no space left; free some")]
)
def test_a_report_nobody_can_read(number, code, says, capsys, monkeypatch):
    def fail(*_):
        raise OSError(number, "")

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=fail, flush=fail, fileno=lambda: os.open(os.devnull, 0)))
    assert main(["list", "models"]) == code
    assert capsys.readouterr().err.startswith(says)


def test_letters_that_the_terminal_cannot_show_are_escaped(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("analysis.commands.check.check", lambda _: Report("\u043a \udcff", {}))
    assert main(["check", "model"]) == 0 and out.buffer.getvalue() == b"\\u043a \\udcff\n"


@pytest.mark.slow
def test_an_interrupt_while_importing_has_no_traceback():
    code = """if True:
        import builtins, sys
        real = builtins.__import__
        def broken(name, *more):
            if name == "analysis.cli": raise KeyboardInterrupt
            return real(name, *more)
        from analysis.__main__ import main
        builtins.__import__ = broken
        sys.exit(main())
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "argv, says",
    [
        (["prune", "m", "--calibration", "a", "--calibration", "b"], "--calibration is given twice, a and b"),
        (["prune", "m", "--recipe", "a", "--recipe=a"], "--recipe is given twice"),
        (["evaluate", "m", "--length", "8", "--length", "9"], "--length is given twice, 8 and 9"),
        (["lab", "train", "--seed", "1", "--seed", "1"], "--seed is given twice"),
        (["evaluate", "m", "--length", "9" * 5000], "--length: invalid int value"),
    ],
)
def test_options_given_twice_and_huge_ones_are_one_short_message(argv, says, capsys):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert says in said and len(said) < 1000


def test_recipe_files_that_are_none(world, tmp_path, capsys):
    (tmp_path / "huge.toml").write_text("x" * 2**21)
    os.mkfifo(tmp_path / "pipe.toml")
    for name, says in {"huge": "larger than 1 MiB", "pipe": "is a pipe", "none": "No such file"}.items():
        argv = arguments(world, tmp_path / "out", recipe=None, recipe_file=tmp_path / f"{name}.toml")
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert says in said and len(said) < 1000


def test_a_name_of_thousands_of_letters_is_shown_by_its_ends(capsys):
    assert main(["data", "generate", "lab", "--texts=2", f"--out=/{'x' * 5000}/end.jsonl"]) in (2, 6)
    said = capsys.readouterr().err
    assert len(said) < 1000 and " ... " in said and "xxx" in said


def test_figures_go_to_no_file_and_no_notebook_is_run_to_find_out(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("analysis.suite.runner.run_suite", lambda *_, **__: pytest.fail("run"))
    assert main(["figures", f"--figures={tmp_path / 'file' / 'x'}"]) == 2
    assert re.search("--figures .*file is a file", capsys.readouterr().err)


def test_examples_longer_than_the_encoder_reads_are_refused_before_they_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("analysis.text.examples.load_examples", lambda *_, **__: pytest.fail("read"))
    argv = ["lab", "finetune", "lab/encoder", "examples:truth", f"--out={tmp_path / 'out'}", "--length=100000"]
    assert main(argv) == 2
    assert "--length 100000: lab/encoder reads at most" in capsys.readouterr().err
