"""What windows ask of a model, and their right answers."""

import pytest
import torch

from analysis.errors import UsageError
from analysis.windows import Labelled, Windows

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
