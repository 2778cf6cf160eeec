"""A model's own text: greedy and sampled tokens against a plain loop, seeds, what is thrown away, and that the
checkpoint's settings have no say.
"""

import random
from collections import Counter
from itertools import islice

import pytest
import torch
from transformers import GenerationConfig

from analysis.errors import DataError, NumericalError, UsageError
from analysis.models.load import LoadedModel
from analysis.text.generate import IN_A_ROW, Writer, detected, generate, loops
from analysis.text.generation import Generation
from tests.helpers.encoders import encoder as random_encoder
from tests.helpers.families import FAMILIES
from tests.helpers.families import tiny as tiny_model
from tests.helpers.writers import END, WORDS, one_word, tiny_writer, word_tokenizer


@pytest.fixture(scope="module")
def tiny():
    return tiny_writer()


def write(loaded, count: int = 1, seed: int = 0, first: int = 0, **settings):
    return list(islice(generate(loaded.model, loaded.tokenizer, Generation(**settings), seed=seed, first=first), count))


def greedy(loaded, ids: list[int], longest: int, end: int | None = None) -> list[int]:
    """The likeliest tokens one by one, without a cache, up to the token `end`."""
    while len(ids) < longest:
        token = int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == end:
            break
        ids = [*ids, token]
    return ids


@pytest.mark.slow
def test_without_chance_a_text_is_the_models_likeliest(tiny):
    """top-k=1 leaves one token to sample: each text is what a plain loop finds, whichever rows of its batch have ended
    before it.
    """
    texts = {text.text for batch in write(tiny, 3, top_k=1, batch=16, prefix=1) for text in batch.texts}
    ids = {word: tiny.tokenizer.convert_tokens_to_ids(word) for word in WORDS}
    found = {word: greedy(tiny, [number], 48, tiny.tokenizer.eos_token_id) for word, number in ids.items()}
    expected = {
        tiny.tokenizer.decode(row, skip_special_tokens=True)
        for row in found.values()
        if len(row) > 1 and not loops(row)
    }
    assert texts == expected and len({len(row) for row in found.values()}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_what_a_plain_loop_finds(family):
    """Caches, sliding windows and positions, also where the library's loop is left and entered again as rows end."""
    model = tiny_model(family)
    loaded = LoadedModel(model, word_tokenizer([f"w{n}" for n in range(62)]), family, family)
    found = [greedy(loaded, [1, n], 12) for n in range(1, 6)]
    end = Counter(row[5] for row in found if len(row) > 5).most_common(1)[0][0]  # a token that ends some of the texts
    loaded.tokenizer.eos_token = f"w{end - 1}"
    rows = Writer(model, loaded.tokenizer, Generation(top_k=1, prefix=2, tokens=12))._sampled(
        torch.tensor([[1, n] for n in range(1, 6)])
    )
    assert rows == [row[: row.index(end, 2)] if end in row[2:] else row for row in found] and rows != found


@pytest.mark.slow
def test_prefixes_are_greedy_and_the_rest_follows_the_models_probabilities(tiny):
    """The sixth token's frequencies are the model's probabilities, at a temperature too."""
    end = tiny.tokenizer.eos_token_id
    for settings in ({}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}):
        writer = Writer(tiny.model, tiny.tokenizer, Generation(batch=2000, tokens=6, start="uniform", **settings))
        rows = list(writer._sampled(torch.tensor([[5, 6, 7, 8, 9]] * 2000)))
        seen = Counter(row[5] if len(row) > 5 else end for row in rows)
        logits = tiny.model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0, -1] / settings.get("temperature", 1)
        probabilities = logits.softmax(0)
        if "top_k" in settings or "top_p" in settings:
            ranked = probabilities.sort(descending=True)
            kept = settings.get("top_k") or int((ranked.values.cumsum(0) < 0.5).sum()) + 1
            probabilities = torch.zeros_like(probabilities).index_copy_(
                0, ranked.indices[:kept], ranked.values[:kept] / ranked.values[:kept].sum()
            )
        for token, probability in enumerate(probabilities.tolist()):
            assert abs(seen[token] / 2000 - probability) < 5 * (probability * (1 - probability) / 2000) ** 0.5 + 1e-9, (
                settings,
                token,
            )
    prefixes = Writer(tiny.model, tiny.tokenizer, Generation(batch=8))._drawn()
    for prefix in prefixes.tolist():
        expected = greedy(tiny, prefix[:1], 5, end)
        assert prefix == expected + [end] * (5 - len(expected))


@pytest.mark.slow
def test_batches_depend_on_their_number_and_the_seed_alone(tiny):
    four = write(tiny, 4, batch=8)
    assert write(tiny, 2, batch=8, first=2) == four[2:] and len({batch.texts for batch in four}) == 4
    assert write(tiny, 1, batch=8, seed=1)[0].texts != four[0].texts


@pytest.mark.slow
def test_nothing_global_is_touched(tiny):
    state, python = torch.get_rng_state(), random.getstate()
    config = tiny.model.generation_config
    tiny.model.train()
    try:
        inside = write(tiny, batch=8)
        assert tiny.model.training
    finally:
        tiny.model.eval()
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python
    assert tiny.model.generation_config is config and not tiny.model.config.use_cache
    assert inside == write(tiny, batch=8)  # written in evaluation mode either way


@pytest.mark.slow
def test_the_checkpoints_own_settings_change_nothing(tiny):
    plain = write(tiny, batch=8)
    before = tiny.model.generation_config
    tiny.model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=1,
        temperature=9.0,
        repetition_penalty=5.0,
        no_repeat_ngram_size=2,
        max_new_tokens=2,
        min_length=40,
        eos_token_id=3,
        suppress_tokens=[4, 5, 6],
        num_beams=2,
        min_p=0.5,
        typical_p=0.2,
        bad_words_ids=[[7]],
    )
    try:
        assert write(tiny, batch=8) == plain
    finally:
        tiny.model.generation_config = before


@pytest.mark.slow
def test_texts_keep_within_tokens_and_context_and_leave_end_of_text_out(tiny):
    texts = [text for batch in write(tiny, 3, batch=16) for text in batch.texts]
    assert max(text.tokens for text in texts) == 48 and min(text.tokens for text in texts) > 5
    assert all(END not in text.text and len(text.text.split()) <= text.tokens for text in texts)
    assert max(text.tokens for batch in write(tiny, 2, batch=16, tokens=9) for text in batch.texts) == 9


@pytest.mark.slow
def test_start_tokens_are_uniform_or_as_frequent_as_in_a_text(tiny, tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("cat cat cat dog\n\ncat dog <eos> nobody")
    writer = Writer(tiny.model, tiny.tokenizer, Generation(start=str(path)))
    ids = dict(zip(WORDS, tiny.tokenizer.convert_tokens_to_ids(WORDS)))
    assert {number: weight for number, weight in enumerate(writer.starts.tolist()) if weight} == {
        ids["cat"]: 4,
        ids["dog"]: 2,
    }
    uniform = Writer(tiny.model, tiny.tokenizer, Generation()).starts
    assert uniform.nonzero().flatten().tolist() == sorted(ids.values()) and set(uniform[uniform > 0].tolist()) == {1.0}
    started = Counter(
        text.text.split()[0] for batch in write(tiny, 2, batch=32, start=str(path), prefix=1) for text in batch.texts
    )
    assert set(started) == {"cat", "dog"}
    path.write_text("nobody nowhere")
    with pytest.raises(DataError, match="holds no token a text can start with"):
        write(tiny, start=str(path))


@pytest.mark.slow
def test_prompts_are_the_first_tokens_of_documents(tiny, tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("the red cat sees a dog\n\nold hill\n\na blue bird has the town")
    texts = [text.text for text in write(tiny, batch=32, prompt=str(path), prefix=3)[0].texts]
    assert {" ".join(text.split()[:3]) for text in texts} == {"the red cat", "a blue bird"}
    with pytest.raises(DataError, match="none of its 3 documents is longer than a prompt of 7 tokens"):
        write(tiny, prompt=str(path), prefix=7)
    assert write(tiny, batch=4, prompt="lab:stories", prefix=2)[
        0
    ].texts  # words this tokenizer does not know, but a lab text all the same


@pytest.mark.slow
def test_loops_are_found_exactly():
    generator = random.Random(0)

    def brute(ids):
        return any(
            all(ids[i + j] == ids[i + j + period] for j in range(64 - period))
            for period in range(1, 17)
            for i in range(len(ids) - 63)
        )

    for _ in range(300):
        period, length, noise = generator.randint(1, 20), generator.randint(50, 140), generator.choice([0, 0, 1])
        cycle = [generator.randint(0, 5) for _ in range(period)]
        ids = [cycle[i % period] for i in range(length)]
        for _ in range(noise):
            ids[generator.randrange(length)] = 9
        assert loops(ids) == brute(ids)
    assert not loops([1] * 63) and loops([1] * 64) and not loops([])


@pytest.mark.slow
def test_a_model_that_only_ends_or_repeats_itself_is_told():
    with pytest.raises(
        DataError,
        match="the last 256 texts .*repetition: a stretch of 64 tokens repeats itself every 16 tokens or fewer",
    ):
        write(one_word("cat"), 99, batch=128)
    with pytest.raises(
        DataError, match=f"the last {IN_A_ROW} prefixes it began were rejected .empty: ends before a token is sampled"
    ):
        write(one_word(END))
    with pytest.raises(DataError, match="the last 256 texts it began were rejected .empty"):
        write(one_word(END), 99, prefix=1, batch=128)


@pytest.mark.slow
def test_prefixes_in_another_language_are_drawn_again_and_counted(tiny, monkeypatch):
    asked = []

    def judge(text):
        asked.append(text)
        return "en" if "the" in text else None

    monkeypatch.setattr("analysis.text.generate.detected", judge)
    batch = write(tiny, batch=8, language="en")[0]
    assert all("the" in " ".join(text.text.split()[:5]) for text in batch.texts)
    assert batch.rejected["language"] > 0 and len(set(asked)) > 1
    monkeypatch.setattr("analysis.text.generate.detected", lambda text: "de")
    with pytest.raises(DataError, match="256 prefixes .*langdetect finds another language"):
        write(tiny, batch=8, language="en")


@pytest.mark.slow
def test_languages_are_told_apart_always_in_the_same_way():
    from langdetect import DetectorFactory

    before = DetectorFactory.seed
    assert detected("The birds were singing in the old trees of the garden.") == "en"
    assert detected("Die Vögel sangen in den alten Bäumen des Gartens.") == "de"
    assert detected("123 456") is None and detected("") is None
    assert len({detected("an hour was") for _ in range(20)}) == 1 and DetectorFactory.seed == before


@pytest.mark.slow
def test_settings_that_do_not_suit_the_model_are_refused(tiny):
    for settings, message in (
        (dict(tokens=49), "49 tokens are more than the model's context of 48"),
        (dict(prefix=48), "49 tokens are more than the model's context of 48"),
        (dict(language="xx"), "language 'xx' is unknown to langdetect; .*valid: .*en"),
    ):
        with pytest.raises(UsageError, match=message):
            Writer(tiny.model, tiny.tokenizer, Generation(**settings))
    long = tiny_writer(context=4096)
    assert (
        Writer(long.model, long.tokenizer, Generation()).longest
        == 2048
        == Writer(long.model, long.tokenizer, Generation(prefix=2047)).longest
    )
    with pytest.raises(UsageError, match="a prefix of 2048 leaves nothing to sample of 2048 tokens; give tokens=4096"):
        Writer(long.model, long.tokenizer, Generation(prefix=2048))


def test_who_cannot_write_is_refused(tiny):
    encoder = random_encoder("bert")
    for given, message in (
        (
            (encoder, tiny.tokenizer, Generation()),
            "BertForSequenceClassification answers classification; give a model that predicts",
        ),
        ((tiny.model, None, Generation()), "there is no tokenizer"),
        ((tiny.model, tiny.tokenizer, "top-k=3"), "settings must be a Generation, not 'top-k=3'"),
        ((tiny.model, tiny.tokenizer, Generation(), -1), "seed must be a whole number of at least 0, got -1"),
        ((tiny.model, tiny.tokenizer, Generation(), 2**70), "seed must be a whole number from 0 to"),
    ):
        with pytest.raises(UsageError, match=f"self-generated text: {message}"):
            Writer(*given)


def test_a_text_is_written_behind_the_tokens_before_it_which_are_no_part_of_it(tiny):
    settings, start = Generation(top_k=1, prefix=1, tokens=6, batch=8), 5
    for text in next(generate(tiny.model, tiny.tokenizer, settings, before=(start,))).texts:
        ids = tiny.tokenizer(text.text)["input_ids"]
        assert [start, *ids] == greedy(tiny, [start, ids[0]], 7, tiny.tokenizer.eos_token_id) and text.tokens == len(
            ids
        )
    assert Writer(tiny.model, tiny.tokenizer, before=(start, start), settings=Generation()).longest == 46


def test_probabilities_that_are_not_finite_are_told():
    loaded = one_word("cat")
    loaded.model.lm_head.bias.fill_(float("nan"))
    with pytest.raises(
        NumericalError, match="probabilities of the next token are not finite in torch.float32 at a temperature of 0.5"
    ):
        write(loaded, prefix=1, temperature=0.5)


@pytest.mark.gpu
def test_on_an_accelerator_batches_depend_on_their_number_alone(tiny):
    loaded = tiny_writer()
    loaded.model.to("cuda")
    state = torch.cuda.get_rng_state()
    two = write(loaded, 2, batch=8)
    assert write(loaded, 1, batch=8, first=1) == two[1:] and torch.equal(torch.cuda.get_rng_state(), state)
