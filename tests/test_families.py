"""The table of families: whole, of the transformers that the lock names, without a failure, and what a check says
today.
"""

import importlib
import re
from types import ModuleType

import pytest
import transformers

from analysis import paths

DOCS = paths.ROOT / "docs"
SOME = [  # (family, kind) of different fates
    ("albert", "encoder"),
    ("bart", "masked"),
    ("bert", "masked"),
    ("deberta-v2", "encoder"),
    ("gemma3_text", "decoder"),
    ("llama", "classifier"),
    ("llava", "pictures and text"),
    ("mamba2", "decoder"),
    ("mixtral", "decoder"),
    ("modernbert", "encoder"),
    ("olmo2", "decoder"),
    ("longt5", "sequence to sequence"),
]


@pytest.fixture(scope="module")
def families() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        return importlib.import_module("families")


def version_on_the_page() -> str:
    return re.search(r"of \*\*transformers ([\d.]+)\*\*", (DOCS / "families.md").read_text("utf-8"))[1]


def test_the_page_names_the_transformers_that_is_locked():
    locked = re.search(r"(?m)^transformers==([\d.]+)", (paths.ROOT / "requirements.lock").read_text("utf-8"))[1]
    assert version_on_the_page() == locked, "run python docs/families.py"


def test_no_family_fails_and_every_refusal_says_why(families):
    rows = families.read_rows()
    assert set(rows.outcome) <= {"works", "refused", "not built"}
    assert (rows[rows.outcome != "works"].reason.str.len() > 20).all()
    assert not rows.reason.str.contains("Traceback|/tmp|\n").any()
    pruned = rows[(rows.outcome == "works") & (rows.kind != "classifier")]
    assert len(pruned) > 50 and (pruned.pruned == "exact").all()


def test_the_page_shows_the_rows_of_the_csv(families):
    if transformers.__version__ != version_on_the_page():
        pytest.skip(f"the page is of transformers {version_on_the_page()}, here is {transformers.__version__}")
    rows = families.read_rows()
    assert (DOCS / "families.md").read_text("utf-8") == families.page(rows)
    assert list(zip(rows.family, rows.kind)) == families.asked(), "families are missing; run python docs/families.py"


def test_a_family_that_fails_stops_the_page(families):
    rows = families.read_rows()
    rows.loc[0, "outcome"] = "fails"
    with pytest.raises(SystemExit, match=f"families fail: {rows.family[0]}"):
        families.page(rows)


def test_what_is_no_error_of_ours_is_a_failure(families, monkeypatch):
    def broken(row, folder):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(families, "_check", broken)
    row = families.checked("llama", "decoder")
    assert (row["outcome"], row["reason"]) == ("fails", "ZeroDivisionError: by zero")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), SOME)
def test_the_table_says_what_a_check_says(family, kind, families):
    if transformers.__version__ != version_on_the_page():
        pytest.skip(f"the page is of transformers {version_on_the_page()}, here is {transformers.__version__}")
    rows = families.read_rows()
    (written,) = rows[(rows.family == family) & (rows.kind == kind)].to_dict("records")
    assert {key: str(value) for key, value in families.checked(family, kind).items()} == written
