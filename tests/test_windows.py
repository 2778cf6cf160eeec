"""What windows ask of a model, and their right answers."""

import pytest
import torch

from analysis.errors import UsageError
from analysis.windows import Labelled, Windows, append, disjoint

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
