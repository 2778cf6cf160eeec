"""Shared text that is no leak, and slices that are one."""

import json

import pytest

from analysis.errors import OverlapError
from analysis.text.load import load_tokens
from analysis.text.shared import openings, origins
from analysis.text.sources import parse_source
from analysis.windows import check_origins, disjoint
from tests.helpers.alphabet import byte_tokenizer

HEADER = "# Written by many hands and given to all; use it as you like, but keep these lines, please.\n"
BODIES = [" ".join(f"{word}{number * 37 % 101}" for word in ["red", "hill", "old", "tree"] * 6) for number in range(40)]


def test_openings_are_what_many_documents_begin_with_and_go_on_from():
    plain = [f"{number} is the number here" for number in range(20)]
    assert openings([HEADER + body for body in BODIES[:4]] + plain, 0.1) == [HEADER + "red"]
    assert openings([HEADER + body for body in BODIES[:2]] + plain, 0.05) == [], "two documents are not many"
    assert openings([HEADER + body for body in BODIES[:4]] + plain * 10, 0.05) == [], "nor are 2 %"
    assert openings([HEADER] * 20 + plain, 0.05) == [], "equal documents are copies"


def file(path, documents):
    path.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    return path


@pytest.mark.parametrize("mode", ["stream", "crop", "documents"])
def test_a_shared_header_is_no_leak_and_a_copy_is_one(mode, tmp_path):
    tokenizer = byte_tokenizer(eos_token="</s>")
    path = file(tmp_path / "a.jsonl", [HEADER + body for body in BODIES])
    draw = {"tokenizer": tokenizer, "samples": 10, "length": 200, "mode": mode}
    sides = [load_tokens(f"{path}{part}", **draw) for part in ("[:50%]", "[50%:]")]
    assert len(disjoint(sides[0], {"held": sides[1]})["held"]) == 10
    again = file(tmp_path / "b.jsonl", [HEADER + body + " and on" for body in BODIES[:20]])
    with pytest.raises(OverlapError, match="hold|share"):
        disjoint(
            load_tokens(f"{path}[:50%]", **draw | {"mode": "stream", "samples": None}),
            {"held": load_tokens(str(again), **draw)},
        )


def test_windows_of_nothing_but_the_header_are_equal_and_refused(tmp_path):
    path = file(tmp_path / "a.jsonl", [HEADER + body for body in BODIES])
    draw = {"tokenizer": byte_tokenizer(), "length": 32, "mode": "documents"}
    sides = [load_tokens(f"{path}{part}", **draw) for part in ("[:50%]", "[50%:]")]
    with pytest.raises(OverlapError, match="20 of 20 .* the first '# Written by man'; many documents begin alike"):
        disjoint(sides[0], {"held": sides[1]}, tokenizer=draw["tokenizer"])
    with pytest.raises(OverlapError, match="no other window is left"):
        disjoint(sides[0], {"held": sides[1]}, drop=True)


def test_windows_that_repeat_text_may_be_dropped_and_that_is_recorded(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(BODIES))
    calibration, held = (
        load_tokens(f"{path}{part}", tokenizer=byte_tokenizer(), length=40) for part in ("[:60%]", "[40%:]")
    )
    kept = disjoint(calibration, {"held": held}, drop=True)["held"]
    assert 0 < len(kept) == len(held) - kept.provenance["dropped"] and kept.provenance["overlap"] == "dropped"
    assert disjoint(calibration, {"held": kept})["held"] is kept, "and holds for whoever checks again"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("[:80%]", "[70%:]", True),
        ("[:80%]", "", True),
        ("", "", True),
        ("[10:20]", "[:11]", True),
        ("[20%:40%]", "[30%:35%]", True),
        ("[:80%]", "[80%:]", False),
        ("[10:20]", "[20:30]", False),
        ("[50%:]", "[:50%]", False),
        ("[:50]", "[50%:]", False),
        ("[:50]", "[:50%]", True),
    ],
)
def test_slices_of_one_text_that_share_documents_are_refused_whatever_is_drawn(one, other, shared, tmp_path):
    path, copy = tmp_path / "a.txt", tmp_path / "copy.txt"
    for place in (path, copy):
        place.write_text("\n\n".join(BODIES))
    sides = [origins(parse_source(f"{name}{part}"), seed=0) for name, part in ((path, one), (copy, other))]
    for pair in (sides, sides[::-1]):
        if shared:
            with pytest.raises(OverlapError, match="both sides overlap: .*a.txt.* hold the same documents, whichever"):
                check_origins("both sides", *pair)
        else:
            check_origins("both sides", *pair)
    windows = [load_tokens(f"{path}{part}", tokenizer=byte_tokenizer(), samples=1, length=8) for part in (one, other)]
    if shared:
        with pytest.raises(OverlapError, match="hold the same documents"):
            disjoint(windows[0], {"held": windows[1]})


def test_parts_of_mixtures_count_and_other_texts_do_not(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(BODIES))
    mixed = origins(parse_source(f"{path}[:50%]:0.5+lab:recipes:0.5").half("train"), seed=0)
    check_origins("both", mixed, origins(parse_source("lab:recipes").half("held-out"), seed=0))
    check_origins("both", mixed, origins(parse_source("lab:recipes/train"), seed=1))
    for other in (f"{path}[49%:]", "lab:recipes/train"):
        with pytest.raises(OverlapError):
            check_origins("both", mixed, origins(parse_source(other), seed=0))
