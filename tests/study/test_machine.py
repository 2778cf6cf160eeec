"""Rates of a machine: read between what was timed, kept, taken elsewhere."""

import json
import os
from dataclasses import replace

import pytest

from analysis.errors import StoreError, UsageError
from analysis.study import machine as machines
from analysis.study.machine import Machine, at, check_target, read_machine, this_machine, write_machine
from analysis.study.work import Work
from tests.helpers.machines import MACHINE


def test_rates_between_two_sizes_lie_on_a_line_of_logarithms():
    curve = ((64, 1e9), (1024, 4e9))
    assert at(curve, 64) == pytest.approx(1e9) and at(curve, 256) == pytest.approx(2e9)
    assert at(curve, 9999) == 4e9 and at(curve, 32) == 5e8


def test_seconds_of_work_add_up():
    work = Work({("float32", 64): 1e10}, {1024: 1e10}, passes=2e10, calls=1e5, selected=1e8, written=1e8, hashed=1e9)
    assert MACHINE.seconds(work) == pytest.approx(1 + 1 + 2 + 1 + 1 + 1 + 1)
    assert MACHINE.seconds(work + work * 2) == pytest.approx(24)
    assert MACHINE.seconds(Work({("tf32", 64): 1e10})) == pytest.approx(1)  # not timed: as float32


def test_a_machine_goes_to_a_file_and_comes_back(tmp_path):
    write_machine(tmp_path / "m.json", MACHINE)
    assert read_machine(tmp_path / "m.json") == MACHINE


def test_only_nothing_or_the_rates_of_a_machine_are_written_over(tmp_path):
    check_target(tmp_path / "new.json")
    write_machine(tmp_path / "m.json", MACHINE)
    check_target(tmp_path / "m.json")
    (tmp_path / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for place in ("notes.txt", "pipe", "."):
        with pytest.raises(StoreError, match="is there already and holds no rates of a machine"):
            check_target(tmp_path / place)
    with pytest.raises(StoreError, match="name is too long"):
        check_target(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "change", [{"version": 99}, {"passes": 0}, {"products": {}}, {"solves": []}, {"call": "x"}, {"extra": 1}]
)
def test_a_file_of_another_kind_is_refused(tmp_path, change):
    file = tmp_path / "m.json"
    file.write_text(json.dumps(MACHINE.to_dict() | change))
    with pytest.raises(UsageError, match=r"analysis plan --calibrate m\.json"):
        read_machine(file)
    with pytest.raises(UsageError, match="no such file"):
        read_machine(tmp_path / "none.json")


def test_a_machine_is_timed_once_for_its_threads(monkeypatch, tmp_path):
    import torch

    timed = []
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    monkeypatch.setattr(machines, "calibrate", lambda device: timed.append(device) or MACHINE)
    assert this_machine() == this_machine() == MACHINE and len(timed) == 1
    next((tmp_path / "cache" / "machine").glob("*.json")).write_text("{")
    this_machine()
    assert len(timed) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    this_machine()
    assert len(timed) == 3


@pytest.mark.slow
def test_this_machine_can_be_timed(monkeypatch, tmp_path):
    import torch

    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    monkeypatch.setattr(machines, "WIDTHS", (64, 128))
    found = machines.calibrate(torch.device("cpu"))
    assert found.device == found.kind == "cpu" and found.device_memory == 0 < found.interpreter < found.host_memory
    assert Machine.of(json.loads(json.dumps(found.to_dict()))) == found
    assert [width for width, _ in found.products["float32"]] == [64, 128]
    assert replace(found, device="cuda NVIDIA H100").kind == "cuda"
