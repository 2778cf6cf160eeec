"""Windows against brute force: how streams, crops and padded documents are cut, and what counts as overlap."""

import random
from dataclasses import replace

import pytest
import torch

from analysis.errors import DataError, OverlapError, UsageError
from analysis.text.cut import cut
from analysis.windows import Labelled, Windows, append, disjoint, repeated

EDGE = 99


def texts(*lengths: int) -> list[list[int]]:
    """Documents of the given lengths; no two tokens are alike."""
    numbers = iter(range(1000, 100_000))
    return [[next(numbers) for _ in range(length)] for length in lengths]


def windows(rows, mask=None, label="text") -> Windows:
    ids = torch.tensor(rows)
    return Windows(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.tensor(mask), label)


@pytest.mark.parametrize("lengths", [(5, 7, 3), (1, 1, 20), (0, 9, 0, 8), (12,)])
@pytest.mark.parametrize("boundary_id", [EDGE, None])
def test_a_stream_is_the_documents_joined_and_cut(lengths, boundary_id):
    documents = texts(*lengths)
    stream = []
    for document in filter(None, documents):
        stream += ([boundary_id] if stream and boundary_id is not None else []) + document
    expected = [stream[i : i + 4] for i in range(0, len(stream) // 4 * 4, 4)]
    got = cut(documents, length=4, samples=None, seed=0, boundary_id=boundary_id)
    assert got.ids.tolist() == expected and got.ids.dtype == torch.int64
    assert (
        got.mask.all() and len(got) == got.provenance["available"] == len(expected) and got.tokens == 4 * len(expected)
    )


def test_samples_are_drawn_without_replacement_and_by_seed():
    documents = texts(400)
    everything = {tuple(row) for row in cut(documents, length=8, samples=None, seed=0, boundary_id=None).ids.tolist()}
    draws = [cut(documents, length=8, samples=20, seed=seed, boundary_id=None).ids.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    rows = {tuple(row) for row in draws[0]}
    assert len(rows) == 20 and rows <= everything
    assert {
        tuple(row) for row in cut(documents, length=8, samples=50, seed=3, boundary_id=None).ids.tolist()
    } == everything


def test_the_global_generator_is_left_alone():
    state, python = torch.get_rng_state(), random.getstate()
    cut(texts(100), length=8, samples=3, seed=0, boundary_id=None)
    cut(texts(100), length=8, samples=3, seed=0, boundary_id=None, mode="crop")
    assert torch.equal(state, torch.get_rng_state()) and python == random.getstate()


def test_a_smaller_draw_is_the_beginning_of_a_larger_one():
    few, many = (cut(texts(400), length=8, samples=n, seed=5, boundary_id=None) for n in (4, 30))
    part = many.subset(4)
    assert torch.equal(part.ids, few.ids) and part.provenance == few.provenance
    assert torch.equal(
        cut(texts(400), length=8, samples=4, seed=5, boundary_id=None, shuffle=False).ids[:, 0],
        torch.arange(1000, 1032, 8),
    )
    with pytest.raises(UsageError, match="31 windows asked, 30 there"):
        many.subset(31)


def test_crops_are_those_of_the_paper():
    """Section 1.4 of the facts: a random document until its tokens exceed the length, then a random crop; Python's
    generator.
    """
    documents = texts(3, 30, 8, 50, 9)
    generator, expected = random.Random(7), []
    for _ in range(12):
        while True:
            document = documents[generator.randint(0, len(documents) - 1)]
            if len(document) > 8:
                break
        start = generator.randint(0, len(document) - 8 - 1)
        expected.append(document[start : start + 8])
    # Documents found too short are not tokenised again, but they are drawn again: the same generator calls, the same
    # crops.
    assert cut(documents, length=8, samples=12, seed=7, boundary_id=EDGE, mode="crop").ids.tolist() == expected


def test_documents_are_padded_on_the_right_and_masked():
    got = cut(
        [[1, 2, 3], [], [4], [5, 6, 7, 8, 9, 10]], length=4, samples=None, seed=0, boundary_id=EDGE, mode="documents"
    )
    assert got.ids.tolist() == [[1, 2, 3, EDGE], [4, EDGE, EDGE, EDGE], [5, 6, 7, 8]]
    assert got.mask.tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]
    assert got.tokens == 8 == got.provenance["tokens"]


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (texts(30), dict(length=8, samples=5), "text: 30 tokens hold 3 windows of 8 tokens, 5 asked"),
        (texts(5), dict(length=8, samples=None), "5 tokens hold 0 windows of 8 tokens, at least 1 asked"),
        ([], dict(length=8, samples=1), "0 tokens hold 0 windows"),
        (
            texts(9, 9),
            dict(length=8, samples=3, mode="documents"),
            "holds 2 windows of 8 tokens, one per document, 3 asked",
        ),
        (
            texts(5, 8),
            dict(length=8, samples=3, mode="crop"),
            r"none of 2 documents is longer than a window of 8 tokens \(the longest has 8\), 3",
        ),
    ],
)
def test_too_short_a_text_says_how_many_windows_it_holds(documents, options, message):
    with pytest.raises(DataError, match=message):
        cut(documents, seed=0, boundary_id=None, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(samples=0), "samples must be a whole number of at least 1, got 0"),
        (dict(samples=-3), "got -3"),
        (dict(samples=2.0), "got 2.0"),
        (dict(samples=True), "got True"),
        (dict(length=0), "length must be a whole number of at least 2, got 0"),
        (dict(length=1), "got 1"),
        (dict(mode="random"), "unknown mode 'random'; possible: stream, crop, documents"),
        (dict(mode="crop", samples=None), "give samples"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        cut(texts(100), **{"length": 8, "samples": 2, "seed": 0, "boundary_id": None} | options)


def test_windows_of_two_shapes_are_refused():
    with pytest.raises(UsageError, match="both must be"):
        Windows(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool))


def shares(one: Windows, other: Windows) -> int:
    """Brute force: held-out windows that hold a run of calibration's real tokens, or are as short and equal."""
    length = min(one.length, other.length)
    run = min(64, max(length // 2, 16), length)

    def runs(part: Windows) -> list[set]:
        found = []
        for ids, mask in zip(part.ids.tolist(), part.mask.tolist()):
            real = [token for token, there in zip(ids, mask) if there]
            found.append({tuple(real[i : i + run]) for i in range(max(len(real) - run, 0) + 1)})
        return found

    known = set().union(*runs(one))
    return sum(bool(known & mine) for mine in runs(other))


@pytest.mark.parametrize("seed", range(6))
def test_overlap_is_found_exactly(seed):
    """Random windows over two letters, so that runs of 8 to 16 repeat by chance; some padded."""
    generator = torch.Generator().manual_seed(seed)
    length = 10 + 4 * seed
    sets = []
    for rows in (40, 30):
        ids = torch.randint(0, 2, (rows, length), generator=generator)
        mask = torch.arange(length) < torch.randint(length // 2, length + 1, (rows, 1), generator=generator)
        sets.append(Windows(ids, mask))
    count = shares(*sets)
    if count > 0.05 * 30:
        with pytest.raises(OverlapError, match=f"{count} of 30 held-out windows"):
            disjoint(sets[0], {"held": sets[1]})
    else:
        kept = disjoint(sets[0], {"held": sets[1]})["held"]
        assert len(kept) == 30 - count and shares(sets[0], kept) == 0
        assert kept.provenance.get("dropped", 0) == count


def test_chance_repeats_are_dropped_and_counted():
    calibration = windows([list(range(start, start + 40)) for start in range(0, 400, 40)], label="calibration")
    held_out = windows([list(range(start, start + 40)) for start in (*range(10_000, 10_760, 40), 80)], label="held")
    kept = disjoint(calibration, {"held": held_out})["held"]
    assert torch.equal(kept.ids, held_out.ids[:19]) and kept.provenance["dropped"] == 1
    assert disjoint(calibration, {"held": kept})["held"] is kept


def test_a_shifted_copy_is_an_overlap_and_the_message_says_what_to_do():
    line = torch.randint(0, 50_000, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    other = torch.randint(0, 50_000, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    calibration = windows([line[:100]], label="stories.txt")
    disjoint(calibration, {"apart": windows([line[100:]]), "short": windows([line[37 + 63 :]])})
    disjoint(calibration, {"49 tokens": windows([line[51:100] + other[:51]])})
    with pytest.raises(
        OverlapError, match=r"'stories.txt' and held-out 'news' \(text\) overlap: 1 of 2 .* 50 or more .*\[:80%\]"
    ):
        disjoint(calibration, {"apart": windows([other]), "news": windows([other, line[50:100] + other[:50]])})


def test_shared_padding_is_no_overlap():
    padded = [[1] * 20 + [0] * 80, [2] * 20 + [0] * 80]
    mask = [[True] * 20 + [False] * 80] * 2
    disjoint(windows(padded[:1], mask[:1]), {"held": windows(padded[1:], mask[1:])})


def test_windows_shorter_than_the_run_are_compared_whole():
    with pytest.raises(OverlapError, match="1 of 1 held-out windows share 8 or more"):
        disjoint(windows([list(range(8))]), {"held": windows([[5, 5, *range(8), 5]])})


def test_added_windows_come_last_and_are_counted():
    own, more = (
        windows([[1, 2, 3], [4, 5, 6]], label="stories"),
        windows([[7, 8, 9]], [[True, True, False]], label="self"),
    )
    together = append(own, more)
    assert together.ids.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]] and together.mask.tolist() == [
        [True] * 3,
        [True] * 3,
        [True, True, False],
    ]
    assert (together.own, together.added, len(together), together.tokens, together.label) == (
        2,
        1,
        3,
        8,
        "stories + self",
    )
    assert (own.own, own.added) == (2, 0)
    again = append(together, own)
    assert (again.own, again.added) == (2, 3)
    assert [together.subset(n).added for n in (1, 2, 3)] == [0, 0, 1] and [
        again.subset(n).own for n in (1, 2, 3, 5)
    ] == [1, 2, 2, 2]


def test_windows_of_another_length_are_not_added():
    with pytest.raises(
        UsageError, match="append: 'self' has windows of 2 tokens, 'stories' of 3; draw both with the same length"
    ):
        append(windows([[1, 2, 3]], label="stories"), windows([[1, 2]], label="self"))
    for added, message in (
        (2, "2 of 2 windows are added ones"),
        (-1, "added must be a whole number"),
        (True, "added must be a whole number"),
    ):
        with pytest.raises(UsageError, match=message):
            Windows(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool), added=added)


def test_an_added_window_overlaps_as_any_other():
    own, more = windows([list(range(16))], label="stories"), windows([list(range(100, 116))], label="self")
    with pytest.raises(OverlapError, match="calibration 'stories \\+ self' and held-out 'held'"):
        disjoint(append(own, more), {"held": more})


@pytest.mark.parametrize("seed", range(3))
def test_repeated_windows_are_those_that_share_a_run(seed):
    generator = torch.Generator().manual_seed(seed)
    sets = [
        Windows(ids := torch.randint(0, 2, (rows, 20), generator=generator), torch.ones_like(ids, dtype=torch.bool))
        for rows in (5, 30)
    ]
    rows, run = repeated(*sets)
    known = {tuple(row[i : i + run]) for row in sets[0].ids.tolist() for i in range(21 - run)}
    assert rows.tolist() == [
        n for n, row in enumerate(sets[1].ids.tolist()) if known & {tuple(row[i : i + run]) for i in range(21 - run)}
    ]


def test_crops_in_order_are_one_per_document_that_is_long_enough():
    """For documents drawn at random already: fewer crops are the first of more, and no document is cropped twice."""
    documents = texts(3, 30, 8, 50, 9, 12)
    options = dict(length=8, seed=7, boundary_id=EDGE, mode="crop", shuffle=False)
    got = cut(documents, samples=4, **options).ids.tolist()
    for row, document in zip(got, [documents[1], documents[3], documents[4], documents[5]]):
        assert any(document[start : start + 8] == row for start in range(len(document) - 7))
    assert cut(documents[:5], samples=2, **options).ids.tolist() == got[:2]
    with pytest.raises(
        DataError,
        match=r"4 of 6 documents are longer than a window of 8 tokens \(the longest other has 8\), 5 crops asked",
    ):
        cut(documents, samples=5, **options)


def labelled(rows: int = 4, length: int = 6) -> Windows:
    """Windows of a span set, every part of which tells its row."""
    ids = torch.arange(rows * length).view(rows, length)
    answers = Labelled(
        "span",
        "f1",
        torch.stack([torch.arange(rows), torch.arange(rows) + 1], 1),
        texts=tuple((f"passage {row}", f"answer {row}") for row in range(rows)),
        offsets=ids[..., None].repeat(1, 1, 2),
    )
    return Windows(
        ids, torch.ones_like(ids, dtype=torch.bool), "set", {"samples": rows}, types=ids % 2, labelled=answers
    )


def test_rows_are_taken_with_all_that_belongs_to_them():
    taken = labelled().take(torch.tensor([1, 3]))
    assert taken.ids[:, 0].tolist() == [6, 18] and torch.equal(taken.types, taken.ids % 2)
    assert taken.labelled.labels.tolist() == [[1, 2], [3, 4]] and taken.labelled.texts == (
        ("passage 1", "answer 1"),
        ("passage 3", "answer 3"),
    )
    assert torch.equal(taken.labelled.offsets[..., 0], taken.ids)
    assert taken.provenance["samples"] == 2 and taken.provenance["tokens"] == 12
    assert torch.equal(labelled().subset(3).labelled.labels, labelled().labelled.labels[:3])


def test_labels_and_types_of_another_size_are_refused():
    windows_, other = labelled(), labelled(3)
    with pytest.raises(UsageError, match="4 windows and 3 labels"):
        replace(windows_, labelled=other.labelled)
    with pytest.raises(UsageError, match="token types"):
        replace(windows_, types=other.types)


def test_nothing_is_added_to_labelled_windows():
    plain = replace(labelled(), types=None, labelled=None)
    for pair in ((labelled(), plain), (plain, labelled())):
        with pytest.raises(UsageError, match="'set' are labelled examples"):
            append(*pair)


def test_equal_short_examples_count_as_shared():
    ids = torch.zeros(40, 32, dtype=torch.long)
    ids[:, 0] = torch.arange(40)
    mask = torch.arange(32) < 3
    calibration = Windows(ids[:1], mask.expand(1, 32), "calibration")
    kept = disjoint(calibration, {"held": Windows(ids, mask.expand(40, 32), "held")})["held"]
    assert len(kept) == 39 and kept.ids[:, 0].min() == 1
    longer = torch.arange(32) < 4
    assert len(disjoint(calibration, {"held": Windows(ids, longer.expand(40, 32), "held")})["held"]) == 40
