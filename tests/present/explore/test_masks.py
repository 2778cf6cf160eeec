"""The mask explorer against masks set by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present.explore import masks

A = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
B = np.array([[1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 0]], bool)


def table(**kinds):
    rows = []
    for name, mask in {"a": A, "b": B}.items():
        for block in (0, 1):
            for matrix, side in (("attn.q", "rows"), ("attn.o", "columns")):
                kept = {"kept": np.packbits(mask).tobytes(), "rows": 4, "columns": 4}
                about = {"side": side, "kind": "heads", "structures": 2} | kinds
                rows.append({"mask": name, "block": block, "matrix": matrix} | kept | about)
    return pd.DataFrame(rows)


CHOICE = masks.MaskChoice("a", "b", 0, "attn.q", size=0)


def test_bits_come_back_and_a_mask_that_is_not_there_is_said():
    assert (masks.mask(table(), "a", 1, "attn.o") == A).all()
    with pytest.raises(UsageError, match="'c' has no mask for attn.q of block 0"):
        masks.mask(table(), "c", 0, "attn.q")


def test_who_keeps_a_weight_and_what_was_exchanged():
    expected = [[3, 1, 2, 0], [3, 0, 3, 0], [0, 0, 0, 2], [3, 3, 3, 1]]
    assert masks.states(table(), CHOICE).tolist() == expected
    one = masks.agreement(table(), "a", "b")
    assert one[["shared", "lost", "gained"]].drop_duplicates().to_numpy().tolist() == [[6 / 10, 2, 2]] and len(one) == 4


@pytest.mark.parametrize(
    "matrix, heads", [("attn.q", [[0.5, 0.5], [0.5, 0.5]]), ("attn.o", [[5 / 8, 3 / 8], [4 / 8, 4 / 8]])]
)
def test_shares_of_rows_columns_and_heads(matrix, heads):
    found = masks.kept_shares(table(), replace(CHOICE, matrix=matrix)).set_index("along")
    assert found.loc["rows", "first"].tolist() == A.mean(1).tolist()
    assert found.loc["columns", "second"].tolist() == B.mean(0).tolist()
    assert found.loc["heads", ["first", "second"]].to_numpy().T.tolist() == heads
    assert "heads" not in set(masks.kept_shares(table(structures=0), CHOICE)["along"])


@pytest.mark.slow
def test_the_heat_map_holds_the_part_that_is_chosen_and_stays_inside():
    fig = masks.draw_masks(table(), replace(CHOICE, size=2, row=1, column=3))
    image = fig.axes[0].images[0]
    assert image.get_array().tolist() == [[3, 0], [0, 2]] and list(image.get_extent()) == [1.5, 3.5, 2.5, 0.5]
    box = masks.explore_masks(table())
    before = box.children[1].value
    box.children[0].children[1].value = "a"
    assert before.startswith("<svg") and box.children[1].value not in ("", before)
