"""The meter: stages in order, seconds and memory that follow what was done."""

import psutil
import pytest
import torch

from analysis.measure.cost import Meter


def test_stages_are_rows_with_units():
    meter = Meter(torch.device("cpu"))
    with meter.stage(0, "statistics", tokens=128):
        pass
    with meter.stage(0, "solve", tokens=1280, trainable=7):
        held = torch.ones(15 * 2**20)
        resident = psutil.Process().memory_info().rss / 2**20
    assert [(r["stage"], r["tokens"], r["trainable_parameters"]) for r in meter.rows] == [
        ("statistics", 128, 0),
        ("solve", 1280, 7),
    ]
    assert all(r["seconds"] >= 0 for r in meter.rows)
    assert meter.rows[1]["peak_memory_mib"] >= resident - 1 > held.nbytes / 2**20


def test_a_failed_stage_leaves_no_row():
    meter = Meter(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), meter.stage(0, "solve"):
        1 / 0
    assert meter.rows == []
