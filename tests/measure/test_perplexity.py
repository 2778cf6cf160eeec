"""Perplexity against the model's own loss, against a hand computation with padding, and on every wrong input."""

import math

import pytest
import torch

from analysis.errors import DataError, NumericalError, UsageError
from analysis.measure.perplexity import perplexity
from analysis.models.load import LoadedModel
from analysis.windows import Windows
from tests.helpers.families import tiny, tokens


def by_hand(model, windows: Windows) -> tuple[float, int]:
    """Mean loss and count: each window alone and unpadded, log-softmax in float64, one token at a time."""
    total, count = 0.0, 0
    for ids, mask in zip(windows.ids, windows.mask):
        real = ids[mask]
        scores = model(real[None]).logits[0].double().log_softmax(-1)
        for position in range(len(real) - 1):
            total -= float(scores[position, real[position + 1]])
            count += 1
    return total / count, count


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gemma3", "gpt_neox"])
def test_without_padding_it_is_the_mean_of_the_models_own_losses(family):
    """Section 1.7 of the facts: chunks weighted equally, which for equal windows is the mean over tokens."""
    model = tiny(family)
    ids, mask = tokens(5)
    result = perplexity(model, Windows(ids, mask), batch=2)
    losses = [float(model(chunk[None], labels=chunk[None]).loss) for chunk in ids]
    assert result.nats_per_token == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token), rel=1e-12)
    assert (result.tokens, result.windows, result.context) == (5 * 23, 5, 24)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gemma2"])
def test_padding_changes_nothing(family):
    model = tiny(family)
    windows = Windows(*tokens(6, padding="right"))
    expected, count = by_hand(model, windows)
    for batch in (1, 3, 8):
        result = perplexity(model, windows, batch=batch)
        assert result.nats_per_token == pytest.approx(expected, rel=1e-5) and result.tokens == count
    scrambled = Windows(windows.ids.masked_fill(~windows.mask, 7), windows.mask)
    assert perplexity(model, scrambled).nats_per_token == pytest.approx(result.nats_per_token, rel=1e-6)


def test_the_size_of_batches_does_not_matter():
    windows = Windows(*tokens(7))
    model = tiny("llama")
    one, three = (perplexity(model, windows, batch=batch).nats_per_token for batch in (1, 3))
    assert one == pytest.approx(three, rel=1e-6)


def test_windows_of_one_real_token_count_nothing():
    model = tiny("llama")
    ids, mask = tokens(2)
    mask[1, 1:] = False
    assert perplexity(model, Windows(ids, mask)).tokens == 23
    with pytest.raises(DataError, match="no token to predict"):
        perplexity(model, Windows(ids[1:], mask[1:]))


def test_the_model_is_left_as_it_was():
    model = tiny("opt")  # has dropout
    windows = Windows(*tokens(3))
    expected = perplexity(model, windows)
    assert perplexity(model.train(), windows) == expected and model.training


def test_a_loaded_model_is_measured_as_the_model_in_it():
    model, windows = tiny("llama"), Windows(*tokens(3))
    assert perplexity(LoadedModel(model, None, "tiny", ""), windows) == perplexity(model, windows)


def test_no_more_than_one_batch_of_logits_is_held():
    model, largest = tiny("llama"), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: largest.append(output.shape[0]))
    perplexity(model, Windows(*tokens(7)), batch=3)
    assert largest == [3, 3, 1]


def test_what_does_not_fit_is_refused():
    model = tiny("llama")
    for windows, message in (
        (Windows(*tokens(2, length=65)), "windows of 65 tokens are longer than the model's context of 64"),
        (
            Windows(torch.full((2, 8), 64), torch.ones(2, 8, dtype=torch.bool), "other"),
            "on 'other': token id 64 is outside the model's vocabulary of 64",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            perplexity(model, windows)
    with pytest.raises(UsageError, match="batch must be a whole number of at least 1, got 0"):
        perplexity(model, Windows(*tokens(2)), batch=0)


def test_a_loss_that_is_not_finite_names_the_window():
    model = tiny("llama")
    ids, mask = tokens(5)
    ids[ids == 50] = 51
    ids[3, 4] = 50
    model.model.embed_tokens.weight[50] = math.nan
    with pytest.raises(NumericalError, match=r"the loss of window 3 \(of 5\) is not finite"):
        perplexity(model, Windows(ids, mask), batch=2)


def test_logits_that_overflow_name_the_dtype_and_the_way_on():
    model = tiny("llama").half()
    model.lm_head.weight.fill_(6e4)
    words = r"'stories': the loss of window 0 \(of 2\) .* logits there overflow in float16, .*bfloat16 or float32"
    with pytest.raises(NumericalError, match=words):
        perplexity(model, Windows(*tokens(2), "stories"))


@pytest.mark.slow
@pytest.mark.real_assets
def test_a_real_model_on_its_own_text(assets):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from analysis.text.load import load_tokens

    model = AutoModelForCausalLM.from_pretrained(assets / "stories260K")
    tokenizer = AutoTokenizer.from_pretrained(assets / "stories260K")
    windows = load_tokens(
        str(assets / "text" / "tiny.utf8"), tokenizer=tokenizer, samples=40, length=512, mode="documents"
    )
    result = perplexity(model, windows)
    assert 1.35 < result.nats_per_token < 1.6  # about 1.47 per story, as the folder's README says
