"""The trainer: the tokenizer loses nothing, a tiny run learns, a stopped run ends as if it had not stopped, the shipped
model is as its card says.
"""

import argparse
import json
import signal
from dataclasses import asdict, replace
from itertools import islice

import pytest

from analysis import paths
from analysis.errors import NumericalError, StoreError, UsageError
from analysis.lab.documents import REGISTERS, documents
from analysis.training import decoder, encoder
from analysis.training.decoder import ExpertsConfig, TrainConfig, config_of
from analysis.training.encoder import EncoderConfig
from analysis.training.lab_stream import END

torch = pytest.importorskip("torch")

TINY = TrainConfig(
    tokens=24 * 4 * 32,
    window=32,
    batch=4,
    context=64,
    vocabulary=300,
    hidden=16,
    intermediate=32,
    blocks=2,
    heads=2,
    kv_heads=1,
    learning_rate=1e-2,
    warmup=256,
)


MIXTURE = ExpertsConfig(**asdict(TINY) | {"tokens": 8 * 4 * 32, "decay": 0.5, "warmup": 128}, experts=4, balance=0.5)


@pytest.fixture(autouse=True, scope="module")
def small_samples():
    """Short tokenizer samples, shards and evaluations: these tests are about the machinery."""
    patch = pytest.MonkeyPatch()
    whole, tokenizer = decoder.evaluate, decoder.train_tokenizer(TINY.vocabulary, sample=60)
    patch.setattr(decoder, "train_tokenizer", lambda vocabulary, seed=0: tokenizer)
    patch.setattr(decoder, "evaluate", lambda model, tokenizer: whole(model, tokenizer, documents_each=1))
    patch.setattr(decoder.StreamBatches, "per_shard", 8)
    yield whole
    patch.undo()


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = paths.lab() / "decoder"
    return (
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
        json.loads((folder / "training.json").read_text()),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return decoder.train(TINY, tmp_path_factory.mktemp("whole"), device="cpu")


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_training_lowers_the_loss(finished):
    card = json.loads((finished / "training.json").read_text())
    losses = [loss for _, loss in card["loss_curve"]["points"]]
    assert losses[-1] < losses[0] - 0.5
    assert card["tokens"] == TINY.tokens and set(card["held_out"]) == set(REGISTERS)
    assert not (finished / "checkpoint.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [5, 21])
def test_resume_is_bit_equal(finished, tmp_path, stop_at):
    """Promise 5, for training: once in the stable phase, once in the decay with its longer windows."""
    decoder.train(TINY, tmp_path, device="cpu", stop=lambda step: step == stop_at)
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    decoder.train(TINY, tmp_path, device="cpu")
    whole, resumed = _weights(finished), _weights(tmp_path)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_interrupt_keeps_the_checkpoint(finished, tmp_path):
    def interrupt(step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        decoder.train(TINY, tmp_path, device="cpu", stop=interrupt)
    decoder.train(TINY, tmp_path, device="cpu")
    assert all(torch.equal(weight, _weights(tmp_path)[name]) for name, weight in _weights(finished).items())


def _total(folder) -> float:
    """The loss of all tokens, from the means of the loss curve."""
    total = before = 0.0
    for tokens, mean in json.loads((folder / "training.json").read_text())["loss_curve"]["points"]:
        total, before = total + (tokens - before) * mean, tokens
    return total


@pytest.mark.slow
def test_length_of_a_run_can_change_only_before_its_decay(finished, tmp_path):
    longer = replace(TINY, tokens=2 * TINY.tokens)
    early, late = tmp_path / "early", tmp_path / "late"
    decoder.train(longer, early, device="cpu", stop=lambda step: step == 6)
    decoder.train(TINY, early, device="cpu")
    assert all(torch.equal(weight, _weights(early)[name]) for name, weight in _weights(finished).items())
    assert _total(early) == pytest.approx(_total(finished), rel=1e-4), "means of the curve are over its own intervals"
    decoder.train(TINY, late, device="cpu", stop=lambda step: step == 22)
    with pytest.raises(StoreError, match="too far on"):
        decoder.train(longer, late, device="cpu")


def test_checkpoint_of_another_run_is_refused(tmp_path):
    decoder.train(TINY, tmp_path, device="cpu", stop=lambda step: step == 1)
    with pytest.raises(StoreError, match="learning_rate"):
        decoder.train(replace(TINY, learning_rate=1e-3), tmp_path, device="cpu")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(StoreError, match="cannot be read"):
        decoder.train(TINY, tmp_path, device="cpu")


def test_everything_wrong_is_said_at_once(tmp_path):
    with pytest.raises(UsageError, match="heads.*vocabulary 100.*window 128"):
        decoder.train(replace(TINY, kv_heads=3, vocabulary=100, window=128, tokens=10_000), tmp_path)
    with pytest.raises(UsageError, match="blocks is 0"):
        decoder.train(replace(TINY, blocks=0), tmp_path)
    with pytest.raises(UsageError, match="device 'abacus'"):
        decoder.train(TINY, tmp_path, device="abacus")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        decoder.train(TINY, tmp_path / "file")


def test_rate_warms_up_stays_and_decays():
    config = TrainConfig()
    rates = [config.rate(step) for step in range(config.steps)]
    assert rates[0] < rates[1] <= max(rates) == config.learning_rate == rates[config.decay_start]
    assert 0 < rates[-1] < 0.01 * config.learning_rate
    assert {config.length(0), config.length(config.steps - 1)} == {config.window, config.context}


def test_batches_depend_on_the_step_alone(small_samples):
    tokenizer = decoder.train_tokenizer(TINY.vocabulary)
    forward, backward = decoder.StreamBatches(TINY, tokenizer), decoder.StreamBatches(TINY, tokenizer)
    steps = [0, 7, 8, TINY.decay_start, TINY.steps - 1]
    one, two = {step: forward[step] for step in steps}, {step: backward[step] for step in reversed(steps)}
    assert all(torch.equal(one[step], two[step]) for step in steps)
    assert one[0].shape == (4, 33) and one[TINY.steps - 1].shape == (2, 65)
    assert not torch.equal(one[0], one[8])


def test_command_line_options_are_the_configuration(capsys):
    parser = argparse.ArgumentParser()
    decoder.add_arguments(parser)
    args = parser.parse_args(["--tokens", "5000", "--learning-rate", "0.01"])
    assert args.tokens == 5000 and args.kv_heads == TrainConfig().kv_heads
    assert decoder.command(replace(TrainConfig(), tokens=5000)) == "analysis lab train --tokens 5000"


def test_shipped_tokenizer_round_trips(shipped):
    _, tokenizer, _ = shipped
    for document in islice(documents("mixed", split="held-out", seed=9), 50):
        ids = tokenizer(document.text)["input_ids"]
        assert tokenizer.decode(ids) == document.text and max(ids) < len(tokenizer)
    strange = "Ωmega naïve 100 % \t\n 🦆 ¿que?"
    assert tokenizer.decode(tokenizer(strange)["input_ids"]) == strange
    assert tokenizer(END)["input_ids"] == [tokenizer.eos_token_id] == [tokenizer.bos_token_id]


def test_shipped_model_is_what_the_lab_promises(shipped):
    model, tokenizer, card = shipped
    assert 200_000 <= sum(p.numel() for p in model.parameters()) == card["parameters"] <= 4_000_000
    assert (
        8 <= model.config.num_hidden_layers <= 12
        and model.config.num_key_value_heads < model.config.num_attention_heads
    )
    assert model.dtype == torch.float32 and len(tokenizer) == card["vocabulary"] == model.config.vocab_size
    assert sum(file.stat().st_size for file in paths.lab().rglob("*") if file.is_file()) < 42e6


@pytest.mark.slow
def test_shipped_model_has_the_loss_of_its_card(shipped, small_samples):
    """A third of the documents the card was made with, all registers: the same losses within sampling error, never
    below the source.
    """
    model, tokenizer, card = shipped
    measured = small_samples(model, tokenizer, documents_each=20)
    for register, row in measured.items():
        told = card["held_out"][register]
        assert row["loss"] == pytest.approx(told["loss_nats_per_token"], rel=0.12)
        assert row["loss"] > row["source"]
        assert told["loss_nats_per_token"] > told["source_entropy_nats_per_token"] > 0


def test_shipped_model_is_what_the_default_command_makes(shipped):
    """The card's configuration is the trainer's default, so `analysis lab train` alone makes it again."""
    assert shipped[2]["config"] == asdict(TrainConfig()) and shipped[2]["command"] == "analysis lab train"


# Mixtures of experts
# ---------------------------------------------------------------------------------------------------------------


def test_experts_are_asked_for_by_their_number():
    values = asdict(ExpertsConfig())
    assert config_of(values) == TrainConfig() and type(config_of(values)) is TrainConfig
    assert config_of(values | {"experts": 8}) == ExpertsConfig(experts=8)
    assert decoder.command(ExpertsConfig(hidden=64, experts=8)) == "analysis lab train --hidden 64 --experts 8"
    with pytest.raises(UsageError, match="--experts-per-token 3 is about experts; say how many with --experts"):
        config_of(values | {"experts_per_token": 3})
    with pytest.raises(UsageError, match="--balance 0.0 is about experts"):
        config_of(values | {"balance": 0.0})


def test_experts_that_leave_no_choice_are_refused(tmp_path):
    with pytest.raises(UsageError, match="experts 2 leave no choice to a token that goes to 2"):
        decoder.train(replace(MIXTURE, experts=2), tmp_path / "out")
    with pytest.raises(UsageError, match="experts is -1, must be above 0; balance is -1.0"):
        decoder.train(replace(MIXTURE, experts=-1, balance=-1.0), tmp_path / "out")


def test_the_loss_of_experts_has_their_balance(small_samples):
    """Per expert: share of tokens times mean router probability, over all blocks and tokens, times the experts."""
    model = decoder.build(MIXTURE, decoder.train_tokenizer(300)).eval()
    rows = torch.arange(4 * 9).view(4, 9) % 300
    with torch.no_grad():
        output = model(rows[:, :-1], output_router_logits=True)
        probabilities = torch.cat(output.router_logits).softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(2).indices, 1)
        plain = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), rows[:, 1:].flatten())
        balance = 4 * (chosen.mean(0) * probabilities.mean(0)).sum()
        assert balance > 2 - 1e-5 and len(output.router_logits) == MIXTURE.blocks
        assert decoder._loss(model, rows) == pytest.approx(float(plain + MIXTURE.balance * balance), rel=1e-5)
        model.config.router_aux_loss_coef = 0.0
        assert decoder._loss(model, rows) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.slow
def test_a_mixture_resumes_bit_equal_and_loads_as_any_other(tmp_path):
    from transformers import AutoModelForCausalLM

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    decoder.train(MIXTURE, whole, device="cpu")
    decoder.train(MIXTURE, resumed, device="cpu", stop=lambda step: step == 5)
    decoder.train(MIXTURE, resumed, device="cpu")
    assert all(torch.equal(weight, _weights(resumed)[name]) for name, weight in _weights(whole).items())
    card = json.loads((whole / "training.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(whole)
    assert model.config.num_local_experts == card["config"]["experts"] == 4
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]


def test_the_shipped_mixture_is_what_its_card_says():
    from transformers import AutoModelForCausalLM

    folder = paths.lab() / "experts"
    card, model = json.loads((folder / "training.json").read_text()), AutoModelForCausalLM.from_pretrained(folder)
    assert card["command"] == decoder.command(config_of(card["config"]))
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert (model.config.num_local_experts, model.config.num_experts_per_tok) == (8, 2)
    assert (folder / "model.safetensors").stat().st_size < 4e6
    assert (folder / "tokenizer.json").read_bytes() == (paths.lab() / "decoder" / "tokenizer.json").read_bytes()


def test_settings_that_cannot_be_are_refused_before_the_work(tmp_path):
    wrong = {
        "learning_rate": [float("nan"), float("inf"), -1.0, "fast", True],
        "weight_decay": [float("nan"), float("inf"), -0.1],
        "decay": [float("nan"), 0.0, 1.5],
        "blocks": [2.0, 0, 10**30],
        "seed": [-1, "x", 2**70],
        "threads": [10**6],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(UsageError, match=f"{name} is "):
                decoder.train(replace(TINY, **{name: value}), tmp_path / "out")
    for sizes in ({"blocks": 10**8}, {"vocabulary": 10**9}, {"hidden": 2**40, "heads": 2}):
        with pytest.raises(UsageError, match=r"needs at least [\d,.]+ GiB of memory, [\d,.]+ GiB are free"):
            decoder.train(replace(TINY, **sizes), tmp_path / "out")
    for config in ({"tokens": 5}, None, EncoderConfig()):
        with pytest.raises(UsageError, match="must be a TrainConfig"):
            decoder.train(config, tmp_path / "out")
    with pytest.raises(UsageError, match="save_every"):
        decoder.train(TINY, tmp_path / "out", save_every=0)
    assert not (tmp_path / "out").exists()


def test_the_least_memory_counts_the_weights(small_samples):
    for trainer, config in (
        (decoder, TINY),
        (decoder, MIXTURE),
        (encoder, EncoderConfig(vocabulary=300, hidden=16, blocks=2, heads=2)),
    ):
        tokenizer = trainer.train_tokenizer(300, **({} if trainer is decoder else {"sample": 60}))
        built = sum(p.numel() for p in trainer.build(config, tokenizer).parameters())
        assert 0.85 * built < config.parameters <= built


def test_numbers_that_run_away_end_the_training(tmp_path):
    """The checkpoint before stays, nothing is called trained."""
    with pytest.raises(NumericalError, match="step .*learning rate below 1e"):
        decoder.train(replace(TINY, learning_rate=1e30), tmp_path / "out", device="cpu", save_every=10**6)
    assert not (tmp_path / "out").exists()


def test_weights_and_scores_that_are_not_finite_are_not_written(tmp_path, monkeypatch):
    def ruined(model):
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)

    config, made = replace(TINY, tokens=4 * 32), decoder._training
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_held_out", lambda model, tokenizer: {"stories": {"perplexity": float("inf")}})
        with pytest.raises(NumericalError, match="scores of the trained model are not finite"):
            decoder.train(config, tmp_path / "out", device="cpu")

    def wrecked(config):
        training = made(config)
        step = torch.optim.AdamW.step

        def broken(self, *args, **more):
            step(self, *args, **more)
            ruined(training.model)

        monkeypatch.setattr(torch.optim.AdamW, "step", broken)
        return training

    monkeypatch.setattr(decoder, "_training", wrecked)
    with pytest.raises(NumericalError, match="weights of .* are not finite"):
        decoder.train(config, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
