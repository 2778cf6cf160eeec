"""What windows ask of a model, and their right answers."""

from dataclasses import replace

import pytest
import torch

from analysis.errors import OverlapError, UsageError
from analysis.windows import Labelled, Windows, append, disjoint, repeated

IDS, MASK = torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)


def test_windows_without_labels_ask_for_the_next_token():
    windows = Windows(IDS, MASK, "lab:stories")
    assert windows.head == "next token"
    with pytest.raises(UsageError, match="windows 'lab:stories': have no labels; draw them from labelled examples"):
        _ = windows.answers


def test_labelled_windows_ask_for_the_head_of_their_labels():
    labelled = Labelled("classification", "accuracy", torch.tensor([0, 1]), ("no", "yes"))
    windows = Windows(IDS, MASK, labelled=labelled)
    assert windows.head == "classification" and windows.answers is labelled


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS.float(), MASK, "ids are torch.float32; they must be token numbers, torch.long"),
        (IDS - 2, MASK, "holds the id -1; token ids begin at 0"),
        (IDS, MASK.long(), "the mask torch.bool"),
        (IDS[0], MASK[0], r"both must be \(N, T\)"),
        (IDS.tolist(), MASK, "ids are list and the mask Tensor"),
        (float("nan"), None, "ids are float and the mask NoneType"),
    ],
)
def test_ids_and_masks_that_are_none_are_refused(ids, mask, message):
    with pytest.raises(UsageError, match=f"windows 'text': .*{message}"):
        Windows(ids, mask, "text")
    Windows(IDS, torch.tensor([[False] * 4, [True, True, False, False]]), "padding on the right, or nothing else")
    Windows(IDS, torch.tensor([[False, True, True, True], [True] * 4]), "padding on the left")


def test_what_is_no_windows_is_refused():
    for wrong in (lambda w: append(w, IDS), lambda w: disjoint(w, {"held": IDS}), lambda w: disjoint(w, w)):
        with pytest.raises(UsageError):
            wrong(Windows(IDS, MASK))


def test_equal_texts_are_found_on_whatever_side_the_padding_stands():
    lengths = torch.arange(5, 12)
    texts = [torch.randint(1, 50, (int(n),), generator=torch.Generator().manual_seed(int(n))) for n in lengths]

    def padded(length: int, left: bool) -> Windows:
        ids, mask = torch.zeros(len(texts), length, dtype=torch.long), torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            place = slice(length - len(text), None) if left else slice(len(text))
            ids[row, place], mask[row, place] = text, True
        return Windows(ids, mask, "texts")

    for left in (False, True):
        for length, other in ((16, False), (16, True), (20, False), (20, True)):
            assert repeated(padded(16, left), padded(length, other))[0].tolist() == list(range(7)), (
                left,
                length,
                other,
            )
    with pytest.raises(OverlapError, match=rf"tokens \[{texts[0][0]}, {texts[0][1]}, "):
        disjoint(padded(16, False), {"held": padded(20, True)})


def test_windows_end_at_the_last_real_token_of_any():
    assert Windows(IDS, torch.tensor([[True, False, False, False], [False, True, True, False]])).end == 3
    assert Windows(IDS, torch.tensor([[False, False, False, True], [True, False, False, False]])).end == 4


def test_a_digest_tells_apart_whatever_answers_are_compared_by():
    labelled = Labelled("span", "f1", torch.tensor([[0, 1], [1, 2]]), texts=(("a", "b"), ("c", "d")))
    changes = [
        {},
        {"head": "embedding"},
        {"metric": "matthews"},
        {"classes": ("no", "yes")},
        {"texts": (("a", "b"), ("c", "e"))},
        {"offsets": torch.ones(2, 4, 2, dtype=torch.long)},
    ]
    made = [Windows(IDS, MASK, labelled=replace(labelled, **change)).digest() for change in changes]
    assert len(set(made)) == len(changes) and made[0] == Windows(IDS, MASK, "x", labelled=labelled).digest()
    known = "e24990ebece118b14265aa4ef21071aed4d11f4454450e4771b740f323bb6c69"
    assert Windows(IDS, MASK).digest() == known, "stored runs of text are known by it"
