"""The meter: stages in order, seconds and memory that follow what was done."""

import psutil
import pytest
import torch

from analysis.measure.cost import Meter


def test_stages_are_rows_with_units():
    meter = Meter(torch.device("cpu"))
    with meter.stage(0, "statistics", tokens=128):
        pass
    # where the kernel forbids resetting the peak, only more than this process ever held can show
    room = int(meter.rows[0]["peak_memory_mib"] * 2**20) - psutil.Process().memory_info().rss
    with meter.stage(0, "solve", tokens=1280, trainable=7):
        held = torch.ones((max(room, 0) + 60 * 2**20) // 4)
    assert [(r["stage"], r["tokens"], r["trainable_parameters"]) for r in meter.rows] == [
        ("statistics", 128, 0),
        ("solve", 1280, 7),
    ]
    assert all(r["seconds"] >= 0 for r in meter.rows)
    assert meter.rows[1]["peak_memory_mib"] >= meter.rows[0]["peak_memory_mib"] + 30, held.shape


def test_a_failed_stage_leaves_no_row():
    meter = Meter(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), meter.stage(0, "solve"):
        1 / 0
    assert meter.rows == []
