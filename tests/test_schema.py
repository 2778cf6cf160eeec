"""Tables: exact columns in exact order, parquet and back bit for bit, and whatever is wrong is named."""

import numpy as np
import pandas as pd
import pytest

from analysis import schema
from analysis.errors import StoreError
from tests.helpers.fakes import tables


@pytest.mark.parametrize("name", schema.TABLES)
def test_parquet_and_back(name):
    frame = schema.validate(name, tables()[name])
    back = schema.from_parquet(name, schema.to_parquet(name, tables()[name]))
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    assert [(c, str(t)) for c, t in back.dtypes.items()] == [(c.name, c.dtype) for c in schema.TABLES[name]]


def test_columns_are_put_in_order_and_numbers_in_their_type():
    blocks = tables()["blocks"]
    shuffled = blocks[blocks.columns[::-1]].assign(error=[1, 2], block=[0.0, 1.0]).set_index(pd.Index([5, 5]))
    checked = schema.validate("blocks", shuffled)
    assert list(checked.columns) == [column.name for column in schema.TABLES["blocks"]]
    assert (checked.block.dtype, checked.error.dtype, list(checked.index)) == ("int64", "float64", [0, 1])


def test_nothing_recorded_is_a_table_without_rows():
    steps = schema.validate("steps", pd.DataFrame([]))
    assert steps.empty and str(steps.dtypes["epoch"]) == "int64"


def test_nan_and_inf_survive_in_float_columns():
    blocks = tables()["blocks"].assign(relative_error=[np.nan, np.inf])
    back = schema.from_parquet("blocks", schema.to_parquet("blocks", blocks))
    assert np.isnan(back.relative_error[0]) and np.isinf(back.relative_error[1])


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.drop(columns="kind"), "lacks kind"),
        (lambda t: t.assign(extra=1), "has unknown extra"),
        (lambda t: t.iloc[:0].drop(columns="kind"), "lacks kind"),
        (lambda t: t.assign(kind="totl"), "'totl' is not total or inherited"),
        (lambda t: t.assign(block=[0, 1.5]), "column block: 1.5 is not int64"),
        (lambda t: t.assign(block=[0, np.inf]), "column block: inf is not int64"),
        (lambda t: t.assign(block=[0, None]), "column block: row 1 has no value"),
        (lambda t: t.assign(split=[None, "a"]), "column split: row 0 has no value"),
        (lambda t: t.assign(split=3), "column split: 3 is not str"),
        (lambda t: t.assign(error="big"), "column error: 'big' is not float64"),
        (lambda t: pd.concat([t, t[["kind"]]], axis=1), "has a column twice"),
    ],
)
def test_wrong_tables_are_refused(change, said):
    with pytest.raises(StoreError, match="table blocks") as caught:
        schema.to_parquet("blocks", change(tables()["blocks"]))
    assert said in str(caught.value)


def test_what_is_no_parquet_is_refused():
    data = schema.to_parquet("blocks", tables()["blocks"])
    for wrong in (b"", b"PAR1", data[:-20], schema.to_parquet("cost", tables()["cost"])):
        with pytest.raises(StoreError, match="table blocks"):
            schema.from_parquet("blocks", wrong)


def test_study_columns_have_no_name_twice():
    for name, own in schema.TABLES.items():
        names = [column.name for column in schema.study_columns(name)]
        assert len(set(names)) == len(names) == len(schema.JOB_COLUMNS) + len(own)
    assert "which" in {column.name for column in schema.study_columns("perplexity")}


def test_csv_keeps_every_digit(tmp_path):
    blocks = tables(1 / 3)["blocks"]
    schema.to_csv(blocks, tmp_path / "blocks.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "blocks.csv"), blocks, check_exact=True)
