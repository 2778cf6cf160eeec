"""Runs made while somebody looks on, with a worker process; pruning is the real one on the lab's smallest model."""

import json
import struct
import threading
import time

import pytest

from analysis.live import runs
from analysis.live.worker import Stopped, Worker, worker

CHOICE = runs.RecipeChoice(model="lab/tiny", samples=1, held_out_samples=1, length=16, epochs=1, solver="none")


def sleep(seconds):
    time.sleep(seconds)


def fail(words):
    raise ValueError(words)


def test_the_rows_of_a_visit_are_read_from_its_file_alone_and_a_torn_one_has_none(tmp_path):
    rows = [{"block": 0, "split": "calibration", "kind": "total", "relative_error": 0.5}]
    header = json.dumps({"__metadata__": {"rows": json.dumps({"blocks": rows})}}).encode()
    file = tmp_path / "visit-0000.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    assert runs._rows(file) == rows
    file.write_bytes(file.read_bytes()[:-5])
    assert runs._rows(file) == [] == runs._rows(tmp_path / "none")


@pytest.mark.slow
def test_a_worker_tells_what_went_wrong_and_can_be_stopped_and_asked_again():
    mine = Worker()
    with pytest.raises(ValueError, match="a word"):
        mine.ask(fail, "a word")
    timer = threading.Timer(0.3, mine.stop)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        mine.ask(sleep, 60)
    assert time.monotonic() - began < 30 and not mine.busy
    mine.ask(sleep, 0)
    mine.stop()


@pytest.mark.slow
def test_a_run_is_forecast_carried_out_by_the_worker_and_kept():
    try:
        expected = runs.expected(CHOICE)
        assert expected.seconds > 0 and expected.tokens > 0
        assert runs.finished(CHOICE) is None and runs.so_far(CHOICE).empty
        runs.begin(CHOICE)
        study = runs.finished(CHOICE)
        assert study.blocks["block"].nunique() == expected.blocks
        assert set(runs.stored_blocks()["run"]) >= set(study.blocks["run"])
    finally:
        worker().stop()
