"""A gathered study: tables by name and as attributes."""

import copy
import pickle

import pandas as pd
import pytest

from analysis import schema
from analysis.study.results import Study


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
