"""What is measured on which text, and what a study remembers of its dense model."""

from dataclasses import replace

import pandas as pd
import torch

from analysis.measure.perplexity import perplexity
from analysis.measure.quality import measurable, quality_rows
from analysis.measure.scores import score
from analysis.pruning import prune
from analysis.recipe import Recipe
from tests.encoders import encoder
from tests.small import small_llama, windows
from tests.test_encoder_loop import examples


def test_the_dense_model_is_measured_once_and_the_pruned_one_every_time():
    model, w, held_out, known = small_llama(), windows(4), windows(4, seed=1), {}
    first = prune(model, Recipe.parse("wanda-50% LR"), w, {"held": held_out}, known=known)
    assert known == {w.digest(): perplexity(model, w), held_out.digest(): perplexity(model, held_out)}
    known[held_out.digest()] = replace(known[held_out.digest()], perplexity=7.0)
    second = prune(model, Recipe.parse("magnitude-50% LR"), w, {"held": held_out}, known=known)
    tables = [result.tables["perplexity"].set_index(["which", "split"]).perplexity for result in (first, second)]
    assert tables[1]["dense", "held"] == 7.0 and tables[1]["dense", "calibration"] == tables[0]["dense", "calibration"]
    assert tables[1]["pruned", "held"] == perplexity(second.model, held_out).perplexity != tables[0]["pruned", "held"]


def test_a_text_is_known_by_all_that_the_model_sees_of_it():
    w = examples("bert")
    others = [replace(w, ids=w.ids + 1), replace(w, mask=~w.mask), replace(w, types=1 - w.types), replace(w, types=None), replace(w, labelled=None)]
    others.append(replace(w, labelled=replace(w.labelled, labels=1 - w.labelled.labels)))
    assert len({other.digest() for other in (w, *others)}) == 7
    assert replace(w, label="another name").digest() == w.digest()


def test_texts_that_a_head_cannot_answer_are_left_out():
    labelled, plain = examples("bert"), replace(examples("bert"), labelled=None)
    texts = {"labelled": labelled, "plain": plain, "spans": examples("bert_span")}
    assert list(measurable(encoder("bert"), texts)) == ["labelled"]
    assert list(measurable(encoder("bert_span"), texts)) == ["spans"]
    assert list(measurable(small_llama(), texts)) == ["plain"]


def test_rows_of_labelled_examples_are_scores():
    model, w = encoder("bert"), examples("bert")
    rows = quality_rows(model, model, {"set": w}, {})
    assert rows["perplexity"] == [] and [row["which"] for row in rows["scores"]] == ["dense", "pruned"]
    assert pd.Series([row["score"] for row in rows["scores"]]).eq(score(model, w).score).all()
    assert torch.equal(w.labelled.labels, examples("bert").labelled.labels)
