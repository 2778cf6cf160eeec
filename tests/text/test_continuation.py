"""Texts side by side: each what the model itself finds likeliest, and nothing of the model is left changed."""

import pytest
import torch

from analysis.errors import UsageError
from analysis.text.continuation import continuations, go_on, log_probabilities
from tests.helpers.small import small_llama
from tests.helpers.writers import tiny_writer


def greedy(loaded, prompt: str, tokens: int) -> str:
    """The likeliest next token, one at a time, without transformers' generation."""
    ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(tokens):
        following = loaded.model(ids).logits[0, -1].argmax()
        if following == loaded.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following.view(1, 1)], dim=1)
    return loaded.tokenizer.decode(ids[0, start:]).strip()


def test_each_model_continues_each_prompt_with_its_likeliest_tokens():
    one, other = tiny_writer(seed=0), tiny_writer(seed=1)
    config, prompts = one.model.generation_config, ["the red cat", "a dog"]
    written = continuations({"dense": one, "pruned": other.model}, prompts, tokens=6)
    assert list(written.columns) == ["prompt", "dense", "pruned"] and written["prompt"].tolist() == prompts
    for name, loaded in (("dense", one), ("pruned", other)):
        assert written[name].tolist() == [greedy(loaded, prompt, 6) for prompt in prompts]
    assert written["dense"].tolist() != written["pruned"].tolist() and one.model.generation_config is config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": "the cat"}, "prompts must be a list of texts"),
        ({"prompts": ["the", " "]}, "prompts must be a list of texts"),
        ({"tokens": 0}, "tokens must be"),
        ({"tokens": 5000}, "a prompt of 1 tokens and 5000 more are beyond the .* that dense reads"),
        ({"models": {}}, "no model comes with a tokenizer"),
    ],
)
def test_what_cannot_be_continued_is_refused(given, message):
    arguments = {"models": {"dense": tiny_writer()}, "prompts": ["the"]} | given
    with pytest.raises(UsageError, match=message):
        continuations(arguments.pop("models"), arguments.pop("prompts"), **arguments)


def test_going_on_is_greedy_at_zero_and_the_same_for_one_seed():
    model, ids = small_llama(), torch.tensor([1, 5, 9])
    greedy = go_on(model, ids, 5, 0.0, 0, None)
    expected = ids
    for _ in range(5):
        expected = torch.cat([expected, model(expected[None]).logits[0, -1].argmax()[None]])
    assert greedy.tolist() == expected.tolist()
    drawn = [go_on(model, ids, 5, 1.0, seed, None).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert go_on(model, ids, 5, 0.0, 0, int(greedy[3])).tolist() == greedy[:4].tolist()
    assert len(go_on(model, ids, 500, 0.0, 0, None)) <= 64


@pytest.mark.slow
def test_drawing_follows_the_models_distribution():
    model, ids = small_llama(), torch.tensor([1, 5])
    probability = log_probabilities(model, ids)[-1].exp()
    assert float(probability.sum()) == pytest.approx(1)
    first = [int(go_on(model, ids, 1, 1.0, seed, None)[-1]) for seed in range(200)]
    likely = int(probability.argmax())
    error = (float(probability[likely]) * (1 - float(probability[likely])) / 200) ** 0.5
    assert first.count(likely) / 200 == pytest.approx(float(probability[likely]), abs=4 * error)
