"""`analysis plan`: the arguments of prune, nothing run; and prune, which looks ahead and survives a lack of memory."""

import json
import re
import shutil

import pytest

from analysis.cli import main
from analysis.study import fit, machine
from analysis.study.footprint import Held
from tests.helpers.machines import GIB, MACHINE
from tests.helpers.world import arguments


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    """This machine is a known one, with 8 GiB; nothing is timed."""
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "calibrate", lambda device: MACHINE)
    monkeypatch.setattr(fit, "free_memory", lambda device: Held(0, 8 * GIB))


def plan(capsys, *argv, code=0):
    """What a call prints, as JSON, and on stderr."""
    assert main(["plan", *map(str, argv), "--json"]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if printed.out else None, printed.err


def test_a_config_without_weights_is_planned_and_nothing_is_loaded(small_world, tmp_path, capsys, monkeypatch):
    """Texts need not be named."""
    monkeypatch.setattr("analysis.models.load.load_model", lambda *_, **__: pytest.fail("loaded"))
    shutil.copy(small_world / "model" / "config.json", tmp_path)
    found, _ = plan(capsys, tmp_path, "--recipe", "wanda-50% BR+GP", "--length", 16, "--samples", 8)
    stages = [stage["stage"] for stage in found["forecast"]["stages"]]
    assert stages == ["load", "record", "statistics", "mask", "target", "solve", "advance", "measure", "save"]
    assert found["fits"] and found["forecast"]["seconds"] > 0 and found["free"] == {"device": 0, "host": 8 * GIB}


def test_a_call_of_prune_is_a_call_of_plan(small_world, tmp_path, capsys):
    argv = arguments(small_world, tmp_path / "out", recipe="wanda-50% BR")[1:]
    assert main(["plan", *argv]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^stage +seconds +TFLOP +tokens read +host memory$", text, re.MULTILINE)
    assert re.search(r"^memory +[\d,.]+ MiB of 8\.0 GiB$", text, re.MULTILINE) and text.endswith("\nit fits\n")
    assert not (tmp_path / "out").exists()


def test_what_cannot_fit_is_reported_with_what_would_and_exits_8(small_world, capsys):
    argv = [small_world / "model", "--recipe", "wanda-50% BR", "--length", 16]
    found, err = plan(capsys, *argv, "--host-memory", "100MiB", code=8)
    assert (
        not found["fits"] and found["advice"] and re.match(r"error: plan: it would need \d+ MiB for this process", err)
    )


def test_a_card_that_is_not_here_has_memory_but_no_seconds(small_world, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    argv = [small_world / "model", "--recipe", "wanda-50% BR", "--length", 16, "--device", "cuda"]
    found, err = plan(capsys, *argv, "--device-memory", "24GB")
    assert found["forecast"]["seconds"] is None and found["forecast"]["device_memory"] > 0
    assert found["free"] == {"device": 24 * 10**9} and "no cuda here" in err


def test_a_machine_elsewhere_is_timed_there_and_planned_for_here(small_world, tmp_path, capsys):
    file = tmp_path / "there.json"
    assert main(["plan", "--calibrate", str(file)]) == 0 and file.is_file()
    assert "GFLOP/s" in capsys.readouterr().out
    card = MACHINE.to_dict() | {"device": "cuda NVIDIA H100", "device_memory": 80 * GIB}
    file.write_text(json.dumps(card))
    argv = [small_world / "model", "--recipe", "wanda-50% BR", "--length", 16, "--like", file]
    found, _ = plan(capsys, *argv)
    assert found["machine"] == "cuda NVIDIA H100" and found["forecast"]["device"] == "cuda"
    assert found["free"] == {"device": 80 * GIB, "host": 16 * GIB} and found["forecast"]["seconds"] > 0
    _, err = plan(capsys, *argv, "--device", "cpu", code=2)
    assert "leave one out" in err


@pytest.mark.parametrize(
    "argv, code, says",
    [
        ([], 2, "2 things to mend.*name a MODEL.*--length"),
        (["lab", "--length", "128"], 2, "give the recipe once"),
        (["lab", "--length", "128", "--recipe", "wanda-50% BR", "--samples", "0"], 2, "--samples must be"),
        (
            ["lab", "--length", "128", "--recipe", "wanda-50% BR", "--host-memory", "much"],
            2,
            "size 'much': give a number",
        ),
        (["none/such", "--length", "128", "--recipe", "wanda-50% BR"], 3, "the hub gave no"),
        (["lab", "--length", "128", "--recipe", "wanda-50% BR", "--like", "none.json"], 2, "no such file"),
        (["lab", "--length", "128", "--recipe", "wanda-50% BR", "--device", "gpu"], 2, "--device must be"),
        (["lab", "--length", "9999999", "--recipe", "wanda-50% BR"], 2, "--length 9999999: lab reads at most"),
        (["lab", "--length", "128", "--recipe", "wanda-2:7 LR"], 2, "does not divide the inputs of 56 matrices"),
        (["lab", "--length", "128", "--recipe", "influence-blocks-25% ghost"], 2, "which no checkpoint"),
    ],
)
def test_wrong_calls_are_one_message(argv, code, says, capsys):
    assert main(["plan", *argv]) == code
    err = capsys.readouterr().err
    assert re.match(f"error: .*{says}", err, re.DOTALL) and "Traceback" not in err


def test_prune_refuses_what_cannot_fit_before_it_loads(small_world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit, "free_memory", lambda device: Held(0, GIB // 8))
    assert main(arguments(small_world, tmp_path / "out")) == 8
    err = capsys.readouterr().err
    assert "would need" in err and "--anyway" in err and "loading" not in err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_prune_that_runs_out_of_memory_keeps_its_work_and_resumes(small_world, pruned, tmp_path, capsys, monkeypatch):
    """Begun against the forecast, out of memory in the third block, gone on with when there is more: the same bits."""
    from analysis.pruning import loop

    visit = loop._visit

    def fails(state, one):
        if one.index == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        visit(state, one)

    monkeypatch.setattr(fit, "free_memory", lambda device: Held(0, GIB // 8))
    monkeypatch.setattr(loop, "_visit", fails)
    out = tmp_path / "out"
    assert main(arguments(small_world, out, anyway="")) == 8
    err = capsys.readouterr().err
    assert "begun --anyway" in err and "128 MiB were free at the beginning" in err and "Finished work is kept" in err
    assert len(list((out / ".checkpoint").glob("visit-*"))) == 2
    monkeypatch.setattr(fit, "free_memory", lambda device: Held(0, 8 * GIB))
    monkeypatch.setattr(loop, "_visit", visit)
    assert main(arguments(small_world, out)) == 0 and "resuming" in capsys.readouterr().err
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (pruned / weights).read_bytes()
