"""A gathered study: tables by name and as attributes."""

import copy
import pickle

import pandas as pd
import pytest

from analysis import schema
from analysis.present.tables import cost_by_method, solver_costs
from analysis.study.grids import grids
from analysis.study.results import Study, gather
from analysis.study.store import StoredRun


def test_tables_are_attributes_too():
    tables = {name: pd.DataFrame({"run": [name]}) for name in schema.TABLES}
    study = Study((), (), tables, {"runs": {}})
    assert all(getattr(study, name) is table for name, table in tables.items())
    assert set(schema.TABLES) <= set(dir(study))
    assert (
        list(pickle.loads(pickle.dumps(study)).blocks["run"]) == list(copy.deepcopy(study).blocks["run"]) == ["blocks"]
    )
    with pytest.raises(AttributeError, match="no attribute 'block'; its tables: blocks, "):
        study.block


def test_a_run_of_several_jobs_is_counted_once_and_parts_are_their_own():
    jobs = grids(
        "added", ["self", "lab:recipes"], added_samples=[0, 4], model="lab", recipes="wanda-50% BR",
        calibration="lab:stories", held_out={"held-out": "lab:stories"}, samples=4, length=16,
    )  # fmt: skip
    unit = {
        "unit": 0, "stage": "solve", "seconds": 10.0, "peak_memory_mib": 1.0, "solver_memory_mib": 1.0,
        "trainable_parameters": 5, "tokens": 64,
    }  # fmt: skip
    tables = {name: schema.validate(name, pd.DataFrame()) for name in schema.TABLES}
    tables["cost"] = schema.validate("cost", pd.DataFrame([unit]))
    stored = StoredRun(tables, {}, {"versions": {}, "created": ""})
    names = {job: "shared" if not job.added_samples else job.added for job in jobs}
    study = gather({job: (run, stored) for job, run in names.items()})
    assert len(study.cost) == 4 and study.runs.count("shared") == 2
    for job in jobs:
        rows = study.part([job]).cost[["added", "added_samples"]]
        assert rows.to_numpy().tolist() == [[job.added, job.added_samples]]
    assert study.part(jobs[::-1]).cost.equals(study.cost[::-1].reset_index(drop=True))
    assert solver_costs(study.cost)["solve_seconds"].tolist() == [10.0] * 3
    assert cost_by_method(study.cost)["solve_seconds"].tolist() == [10.0]
