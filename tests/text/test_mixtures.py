"""Mixtures of texts: the order of their windows against brute force, and what is in them."""

import itertools
from fractions import Fraction

import pytest
import torch

from analysis.errors import DataError, UsageError
from analysis.text.load import load_tokens
from analysis.text.mixtures import order


def all_shares(parts: int, whole: int) -> list[list[Fraction]]:
    """Every way to divide 1 among so many parts in steps of 1 / whole."""
    return [
        [Fraction(n, whole) for n in numbers]
        for numbers in itertools.product(range(1, whole), repeat=parts)
        if sum(numbers) == whole
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "whole"), [(2, 12), (3, 10), (4, 9), (5, 8)])
def test_every_beginning_of_a_mixture_has_its_shares_to_within_a_window(parts, whole):
    for shares in all_shares(parts, whole):
        chosen = order(shares, 3 * whole)
        for number in range(1, len(chosen) + 1):
            counts = [chosen[:number].count(part) for part in range(parts)]
            assert max(abs(count - share * number) for count, share in zip(counts, shares)) <= 1 - Fraction(
                1, 2 * parts - 2
            )
        assert [chosen[:number] for number in (1, 7, 20)] == [order(shares, number) for number in (1, 7, 20)][
            : len(chosen)
        ]
        assert [chosen.count(part) for part in range(parts)] == [share * 3 * whole for share in shares]


def test_two_parts_get_their_shares_rounded():
    assert order([Fraction(7, 10), Fraction(3, 10)], 10) == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    for share in (Fraction(1, 7), Fraction(9, 10), Fraction(1, 2)):
        for number in range(1, 30):
            assert abs(order([share, 1 - share], number).count(0) - share * number) <= Fraction(1, 2)


@pytest.fixture
def files(tmp_path):
    """Three files, each of one letter."""
    for letter in "abc":
        (tmp_path / f"{letter}.txt").write_text("\n\n".join(letter * 40 for _ in range(30)))
    return tmp_path


def test_windows_come_from_the_parts_in_order(files, tokenizer):
    source = f"{files}/a.txt:0.5+{files}/b.txt[:50%]:0.25+{files}/c.txt:1/4"
    windows = load_tokens(source, tokenizer=tokenizer, samples=12, length=8, seed=3)
    letters = ["".join(sorted(set(tokenizer.decode(row).replace("</s>", "")))) for row in windows.ids]
    assert letters == ["abc"[part] for part in order([Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], 12)]
    for letter, name in (("a", "a.txt"), ("b", "b.txt[:50%]"), ("c", "c.txt")):
        alone = load_tokens(f"{files}/{name}", tokenizer=tokenizer, samples=letters.count(letter), length=8, seed=3)
        assert torch.equal(windows.ids[[found == letter for found in letters]], alone.ids)
    assert windows.label == "a.txt:0.5+b.txt[:50%]:0.25+c.txt:0.25" and windows.mask.all()
    few = load_tokens(source, tokenizer=tokenizer, samples=5, length=8, seed=3)
    assert torch.equal(few.ids, windows.ids[:5])


def test_provenance_keeps_every_parts_own_and_no_folder(files, tokenizer):
    stated = load_tokens(f"{files}/a.txt:0.9+lab:stories:0.1", tokenizer=tokenizer, samples=3, length=8).provenance
    assert (stated["source"], stated["samples"], stated["tokens"], stated["length"]) == (
        "a.txt:0.9+lab:stories:0.1",
        3,
        24,
        8,
    )
    assert [(part["share"], part["source"], part["samples"]) for part in stated["parts"]] == [
        ("0.9", "a.txt", 3),
        ("0.1", "lab:stories", 0),
    ]
    assert str(files) not in repr(stated)


@pytest.mark.slow
def test_parts_keep_their_own_way_of_cutting_and_their_half(tokenizer):
    windows = load_tokens(
        "lab:stories:0.5+lab:recipes/held-out:0.5", tokenizer=tokenizer, samples=4, length=32, split="train"
    )
    assert [part["split"] for part in windows.provenance["parts"]] == ["train", "held-out"]
    padded = load_tokens(
        "lab:stories:0.5+lab:recipes:0.5", tokenizer=tokenizer, samples=4, length=2000, mode="documents"
    )
    assert not padded.mask.all() and padded.tokens == padded.provenance["tokens"]


def test_wrong_requests_of_a_mixture_are_refused(files, tokenizer):
    with pytest.raises(UsageError, match="a mixture has no natural number of windows; give samples"):
        load_tokens("lab:stories:0.5+lab:recipes:0.5", tokenizer=tokenizer, length=8)
    with pytest.raises(DataError, match=r"a.txt\[:1\]: 40 tokens hold 5 windows of 8 tokens, 10 asked"):
        load_tokens(f"{files}/a.txt[:1]:0.5+lab:recipes:0.5", tokenizer=tokenizer, samples=20, length=8)
