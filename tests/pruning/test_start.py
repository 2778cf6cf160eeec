"""Before the first visit: what the caller hands over is left exactly as it was, whatever comes of the run."""

import copy

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from analysis.errors import AnalysisError, ModelError, UnsupportedModel, UsageError
from analysis.measure.quality import DenseModel
from analysis.models.load import LoadedModel
from analysis.pruning import loop
from analysis.pruning.loop import prune
from analysis.pruning.start import open_run
from analysis.recipe.recipe import Recipe
from tests.helpers.encoders import encoder
from tests.helpers.small import VOCABULARY, small_llama, windows


def as_a_trainer_leaves_it():
    """A model in training mode but for one block, with gradients, frozen embeddings, a hook, its cache on."""
    model = small_llama(blocks=2, hidden=16).requires_grad_(True).train()
    model.config.attention_dropout = 0.4
    model.model.layers[1].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.config.use_cache = True
    model.activation_checkpointing_enable()
    model.lm_head.register_forward_hook(lambda *_: None)
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, float(number))
    return model


def everything(model):
    """All of a model and of the process that a run could change."""
    return {
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "parameters": [(id(parameter), parameter.device, parameter.dtype) for parameter in model.parameters()],
        "values": [value.clone() for value in model.state_dict().values()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            (dict(module._forward_hooks), dict(module._forward_pre_hooks), dict(module._backward_hooks))
            for module in model.modules()
        ],
        "forwards": ["forward" in vars(module) for module in model.modules()],
        "config": copy.deepcopy(model.config.to_dict()) | {"use_cache": model.config.use_cache},
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["wanda-50% LR", "wanda-50% BR+GP[epochs=1,unit=sub-block]", "flap-neurons-50% LIAR"]
)
def test_the_model_is_left_as_it_was(recipe):
    model = as_a_trainer_leaves_it()
    before = everything(model)
    result = prune(
        LoadedModel(model, None, "made-up", "", notes=("attention: another",)), Recipe.parse(recipe), windows(4)
    )
    assert result.provenance["notes"] == ["attention: another"]
    pruned = result.model
    assert [name for name, value in everything(model).items() if not same(value, before[name])] == []
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in pruned.parameters())
    assert not any(module.training for module in pruned.modules())


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_model_is_left_as_it_was_after_an_error(place, monkeypatch):
    model = as_a_trainer_leaves_it()
    if place == "first":
        model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("inf")
    else:
        monkeypatch.setattr(loop, "_finished", lambda state: state.no_such_thing)
    before = everything(model)
    with pytest.raises(AnalysisError if place == "first" else AttributeError):
        loop.prune(model, Recipe.parse("wanda-50% BR[epochs=1]"), windows(4), measure=False)
    assert [name for name, value in everything(model).items() if not same(value, before[name])] == []


@pytest.mark.slow
def test_training_mode_changes_no_result():
    trained = as_a_trainer_leaves_it()
    first, second = (
        prune(model, Recipe.parse("wanda-50% BR+GP[epochs=1]"), windows(4), measure=False).model.state_dict()
        for model in (copy.deepcopy(trained).eval(), trained)
    )
    assert same(list(first.values()), list(second.values()))


@pytest.mark.parametrize("token", [VOCABULARY, -1])
def test_a_token_that_the_model_does_not_embed_is_refused_first(token):
    text = windows(2)
    text.ids[1, 3] = token
    with pytest.raises(UsageError, match=f"vocabulary is 0 to {VOCABULARY - 1}"):
        loop.prune(small_llama(blocks=1, hidden=16), Recipe.parse("wanda-50% LR"), text)


def test_a_bare_model_with_another_head_is_refused_first():
    with pytest.raises(ModelError, match="LlamaModel: LlamaModel gives no logits"):
        loop.prune(small_llama(blocks=1, hidden=16).model, Recipe.parse("wanda-50% LR"), windows(2))


def test_neurons_of_latent_attention_are_refused_first():
    config = DeepseekV3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        first_k_dense_replace=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )
    with torch.random.fork_rng():
        model = DeepseekV3ForCausalLM(config).eval()
    with pytest.raises(UnsupportedModel, match="layers.0: its attention half has .*heads cannot be told apart"):
        open_run(
            DenseModel.of(model),
            Recipe.parse("flap-neurons-50% LR"),
            windows(2),
            {},
            measure=False,
            precision=torch.float32,
        )


def test_windows_beyond_the_usable_context_are_refused_first():
    with pytest.raises(UsageError, match="windows of 64 tokens are longer than the model's context of 63"):
        loop.prune(encoder("roberta"), Recipe.parse("wanda-50% LR"), windows(2, length=64, vocabulary=60))


@pytest.mark.parametrize("row", [0, 3])
def test_a_window_of_padding_alone_is_refused_by_its_number(row):
    own, other = windows(4), windows(4, seed=1)
    other.mask[row] = False
    with pytest.raises(UsageError, match=f"stories: window {row} of 4 has no real token, only padding; leave it out"):
        loop.prune(small_llama(blocks=1), Recipe.parse("wanda-50% LR"), own, {"stories": other})
