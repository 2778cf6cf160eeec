"""Labelled examples: drawn again alike, balanced, on one side of the split each, with answers that stand where they
should and cannot be had cheaply.
"""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice

import pytest

from analysis import paths
from analysis.errors import UsageError
from analysis.lab.documents import default_world
from analysis.lab.examples import EXAMPLES, Example, examples

NUMBER = 2_000


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, str], list[Example]]:
    return {
        (name, split): list(islice(examples(name, split=split), NUMBER))
        for name in EXAMPLES
        for split in ("train", "held-out")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_a_function_of_name_split_and_seed(name, drawn):
    again = list(islice(examples(name), 50))
    assert again == drawn[name, "train"][:50]
    assert again != list(islice(examples(name, seed=1), 50)) and again != drawn[name, "held-out"][:50]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_splits_share_no_example(name, drawn):
    """Nor a passage, or a longer text of a pair, whatever the seeds."""
    longer = lambda found: {max(one.first, one.second or "", key=len) for one in found}
    held_out = longer(drawn[name, "held-out"])
    assert not longer(drawn[name, "train"]) & held_out
    assert not longer(islice(examples(name, seed=1), 500)) & held_out


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_texts_are_finished_and_short(name, drawn):
    for one in drawn[name, "train"]:
        for text in filter(None, (one.first, one.second)):
            assert (
                text == text.strip()
                and text[-1] in ".?!"
                and not re.search(r"[\[\]{}|_]|  |\.\.|\n", text)
                and (text[0].isupper() or not text[0].isalpha())
            )
        assert len(one.first) + len(one.second or "") <= 370
        assert (one.second is None) == (name == "truth")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["truth", "entailment"])
def test_classes_are_balanced_in_every_stretch(name, drawn):
    for split in ("train", "held-out"):
        labels = [one.label for one in drawn[name, split]]
        assert set(labels) == {0, 1} == set(range(len(EXAMPLES[name].classes)))
        for start in range(0, NUMBER, 500):
            assert 0.4 < sum(labels[start : start + 500]) / 500 < 0.6


@pytest.mark.slow
def test_scores_are_spread_over_their_range(drawn):
    counts = Counter(one.label for one in drawn["similarity", "train"])
    assert set(counts) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0} and min(counts.values()) > 0.12 * NUMBER


@pytest.mark.slow
def test_answers_stand_in_the_passage_at_many_places(drawn):
    places, kinds = [], Counter()
    for one in drawn["answers", "train"]:
        start, stop = one.label
        answer = one.second[start:stop]
        assert 0 <= start < stop <= len(one.second) and answer == answer.strip() and one.first.endswith("?")
        assert not (one.second[start - 1].isalnum() if start else False) and not one.second[stop].isalnum()
        places.append(start / len(one.second))
        kinds[one.first.split()[0]] += 1
    thirds = Counter(int(3 * place) for place in places)
    assert min(thirds[third] for third in range(3)) > 0.2 * NUMBER
    assert len(kinds) > 5 and max(kinds.values()) < 0.6 * NUMBER


@pytest.mark.slow
def test_true_statements_are_true_of_the_world(drawn):
    """Statements of what somebody fears, against the world itself."""
    fears = {person.name: person.fear for person in default_world().people[:24]}
    seen = Counter()
    for one in drawn["truth", "train"]:
        found = re.search(r"(\w+ \w+) is (?:afraid|terrified) of (.*)\.$", one.first)
        if found and found[1] in fears:
            assert (fears[found[1]] == found[2]) == bool(one.label)
            seen[one.label] += 1
    assert min(seen[0], seen[1]) > 10


@pytest.mark.slow
def test_words_alone_give_no_answer_to_truth(drawn):
    """Naive Bayes over words, trained on the train split: little above chance on the held-out one."""
    assert _bayes(drawn["truth", "train"], drawn["truth", "held-out"], lambda one: words(one.first)) < 0.62


@pytest.mark.slow
def test_neither_words_nor_overlap_give_the_entailment_away(drawn):
    train, held_out = drawn["entailment", "train"], drawn["entailment", "held-out"]
    assert _bayes(train, held_out, lambda one: words(one.second)) < 0.65
    shared = lambda one: len(set(words(one.second)) & set(words(one.first))) / len(set(words(one.second)))
    shares = [(shared(one), one.label) for one in held_out]
    best = max(sum((share >= edge) == label for share, label in shares) for edge in {share for share, _ in shares})
    assert best / NUMBER < 0.7


@pytest.mark.slow
def test_shared_words_are_not_the_whole_of_similarity(drawn):
    import numpy as np

    from analysis.measure.scores import spearman

    held_out = drawn["similarity", "held-out"]
    jaccard = [
        len(set(words(one.first)) & set(words(one.second))) / len(set(words(one.first)) | set(words(one.second)))
        for one in held_out
    ]
    assert 0.2 < spearman(np.array(jaccard), np.array([one.label for one in held_out])) < 0.9


@pytest.mark.slow
def test_first_capitalised_words_are_seldom_the_answer(drawn):
    held_out = drawn["answers", "held-out"]
    right = sum(one.second.split()[0].strip(".,") == one.second[slice(*one.label)] for one in held_out)
    following = sum(one.second[slice(*one.label)] in one.second.split(". ")[0] for one in held_out)
    assert right / NUMBER < 0.1 and following / NUMBER < 0.4


def test_a_set_or_split_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="unknown set 'thruth'; the lab has truth, entailment, similarity, answers"):
        examples("thruth")
    with pytest.raises(UsageError, match="unknown split 'test'"):
        examples("truth", split="test")


def test_no_torch_is_needed():
    code = "import sys, analysis.lab.examples; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _bayes(train, held_out, of) -> float:
    """Accuracy of naive Bayes with add-one counts."""
    import math

    counts: dict[int, Counter] = defaultdict(Counter)
    for one in train:
        counts[one.label].update(set(of(one)))
    totals = Counter(one.label for one in train)
    score = lambda one, label: sum(math.log((counts[label][word] + 1) / (totals[label] + 2)) for word in set(of(one)))
    return sum((score(one, 1) > score(one, 0)) == bool(one.label) for one in held_out) / len(held_out)
