"""Half blocks: for every family they make up the block, bit for bit where it is sequential; silenced halves do no work;
what cannot be split is refused.
"""

import copy
import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.errors import ReplayError, UnsupportedModel, UsageError
from analysis.models import sub_blocks
from analysis.models.anatomy import anatomy
from analysis.models.block_arguments import HIDDEN, Call
from analysis.models.replay import record, run
from analysis.models.sub_blocks import check_halves, half_output, halves_error, matrix_inputs
from analysis.windows import Windows
from tests.helpers.families import CONFIGS, FAMILIES, LENGTH, tiny, tokens

_SIZE = dict(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=0,
)
_GPT = dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
VARIANTS = {  # other shapes of block within and beside the families
    "gptj": lambda: tf.GPTJConfig(**_GPT, rotary_dim=4),
    "cohere": lambda: tf.CohereConfig(**_SIZE, intermediate_size=48, num_key_value_heads=2),
    "granite": lambda: tf.GraniteConfig(**_SIZE, intermediate_size=48, num_key_value_heads=2, residual_multiplier=0.3),
    "mpt": lambda: tf.MptConfig(vocab_size=64, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "gpt_neox_sequential": lambda: tf.GPTNeoXConfig(**_SIZE, intermediate_size=48, use_parallel_residual=False),
    "falcon_shared_norm": lambda: tf.FalconConfig(**_SIZE, multi_query=True, parallel_attn=True, alibi=False),
    "falcon_sequential": lambda: tf.FalconConfig(**_SIZE, multi_query=False, parallel_attn=False, alibi=True),
    "bloom_residual_after_norm": lambda: tf.BloomConfig(
        vocab_size=64, hidden_size=32, n_layer=2, n_head=4, apply_residual_connection_post_layernorm=True
    ),
}
WITHOUT_NAN = {
    "gemma2": None
}  # in float64, eager attention gives nan where a window slides wholly into padding; the others bear it on the right
PARALLEL = ("gpt_neox", "phi", "falcon", "gptj", "cohere", "falcon_shared_norm")
EVERY = (*FAMILIES, *VARIANTS)

# whose output is added to the block's input in the attention half, where that is not the attention module; or is the
# stream itself
CLOSING = {
    "gemma2": "post_attention_layernorm",
    "gemma3": "post_attention_layernorm",
    "olmo2": "post_attention_layernorm",
    "glm4": "post_self_attn_layernorm",
}
STREAM = {
    "bloom": "self_attention",
    "bloom_residual_after_norm": "self_attention",
    "opt_post_norm": "self_attn_layer_norm",
}


@functools.cache
def model_of(family, dtype=torch.float32):
    if family in VARIANTS:
        CONFIGS[family] = VARIANTS[family]
        model = tiny(family)
        del CONFIGS[family]
    else:
        model = tiny(family)
    model = model.to(dtype)
    return model, anatomy(model)


def setting(family, padding=None, dtype=torch.float32, index=1):
    """A block (1 slides in two of the mixed families), its input (3, T, H) and its arguments."""
    model, parts = model_of(family, dtype)
    recording = record(model, parts, Windows(*tokens(3, LENGTH, 0, padding), label="random", provenance={}))
    hidden = recording.hidden
    for block in parts.blocks[:index]:
        hidden = run(block.module, hidden, recording.call(block.index, slice(None)))
    return parts.blocks[index], hidden, recording.call(index, slice(None))


def seen(block, names, hidden, call, outputs=False):
    """Inputs, or first outputs, of the named modules in one full forward of the block, by hooks."""
    found = {}

    def hook(name):
        def see(module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            found[name] = (output[0] if isinstance(output, tuple) else output) if outputs else given

        return see

    handles = [block.module.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    run(block.module, hidden, call)
    for handle in handles:
        handle.remove()
    return found


def untouched(model):
    return not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__ for module in model.modules()
    )


@pytest.mark.slow
@pytest.mark.parametrize("padding", [None, "both"])
@pytest.mark.parametrize("family", EVERY)
def test_halves_make_up_the_block(family, padding):
    model, parts = model_of(family)
    recording = record(model, parts, Windows(*tokens(4, LENGTH, 0, padding), label="random", provenance={}))
    rows = torch.tensor([2, 0, 3])
    for block in parts.blocks:
        assert block.parallel == (family in PARALLEL)
        error = halves_error(block, recording.hidden[rows], recording.call(block.index, rows))
        assert error <= 1e-6 if block.parallel else error == 0
    check_halves(parts, recording, rows)
    check_halves(parts, recording, slice(0, 2))
    assert untouched(model)


@pytest.mark.slow
@pytest.mark.parametrize("family", EVERY)
def test_halves_make_up_the_block_in_float64(family):
    assert halves_error(*setting(family, WITHOUT_NAN.get(family, "right"), torch.float64)) <= 1e-12


@pytest.mark.parametrize("family", EVERY)
def test_each_half_is_what_the_block_computes_inside(family):
    """Against the outputs of the modules in a full forward, in float64."""
    block, hidden, call = setting(family, WITHOUT_NAN.get(family, "right"), torch.float64)
    closing = CLOSING.get(family, block.attention.modules[0])
    last = STREAM.get(family, closing)
    inside = seen(block, [last], hidden, call, outputs=True)[last]
    middle = inside if family in STREAM else hidden + inside * getattr(block.module, "residual_multiplier", 1)
    torch.testing.assert_close(half_output(block, "attention", hidden, call), middle, rtol=0, atol=1e-12)
    output = run(block.module, hidden, call)
    ours = half_output(block, "mlp", hidden if block.parallel else middle, call)
    torch.testing.assert_close(ours, output - middle + hidden if block.parallel else output, rtol=0, atol=1e-11)
    assert (middle - hidden).norm() > 0.1 and (ours - middle).norm() > 0.1, "both halves matter here"


@pytest.mark.parametrize("family", EVERY)
def test_gradients_are_those_of_the_block(family):
    """Of a random linear function of the output, in float64: every parameter's, and the input's through both halves."""
    block, hidden, call = setting(family, WITHOUT_NAN.get(family, "right"), torch.float64)
    parameters = dict(block.module.named_parameters())
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hidden = hidden.clone().requires_grad_()
    owners = {half: (*getattr(block, half).modules, *getattr(block, half).norms) for half in ("attention", "mlp")}
    own = {
        half: {n for n in parameters if any(n.startswith(f"{module}.") for module in modules)}
        for half, modules in owners.items()
    }
    assert own["attention"] | own["mlp"] == set(parameters) and not own["attention"] & own["mlp"]

    def gradients(output, wanted):
        names = sorted(wanted)
        found = torch.autograd.grad(
            (output * weight).sum(),
            [hidden, *(parameters[name] for name in names)],
            retain_graph=True,
            allow_unused=True,
        )
        return dict(zip(["hidden", *names], found, strict=True))

    def close(ours, true, names):
        scale = max(true[name].norm() for name in names)  # of a key's bias the gradient is zero but for rounding
        for name in names:
            assert (ours[name] - true[name]).norm() <= rounding * scale, name

    rounding = (
        1e-6 if family == "cohere" else 1e-12
    )  # its norm, shared by both halves, works in float32 whatever it is given
    block.module.requires_grad_(True)
    try:
        true = gradients(run(block.module, hidden, call), parameters)
        attention = half_output(block, "attention", hidden, call)
        if block.parallel:
            mlp = half_output(block, "mlp", hidden, call)
            close(gradients(attention + mlp - hidden, parameters), true, ["hidden", *parameters])
            alone = {half: gradients(output, parameters) for half, output in (("attention", attention), ("mlp", mlp))}
            readers = {name for name in own["attention"] if alone["mlp"][name] is not None}  # a norm both halves read
            assert all(name.removesuffix(".weight").removesuffix(".bias") in block.attention.norms for name in readers)
            close(alone["attention"], true, own["attention"] - readers)
            close(alone["mlp"], true, own["mlp"])
            assert all(alone["attention"][name] is None for name in own["mlp"])
        else:
            close(gradients(half_output(block, "mlp", attention, call), parameters), true, ["hidden", *parameters])
            outside = attention.detach()
            close(gradients(half_output(block, "mlp", outside, call) + 0 * hidden, own["mlp"]), true, own["mlp"])
            assert all(value is None for name, value in gradients(attention, own["mlp"]).items() if name != "hidden")
            mine = gradients(half_output(block, "mlp", outside, call) + 0 * hidden, own["attention"])
            assert all(value is None for name, value in mine.items() if name != "hidden")
    finally:
        block.module.requires_grad_(False)


@pytest.mark.parametrize("padding", [None, "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_matrix_inputs_are_those_of_a_full_forward(family, padding):
    block, hidden, call = setting(family, padding)
    names = [matrix.name for matrix in block.matrices]
    true = seen(block, names, hidden, call)
    for wanted in (names, names[:1], names[-1:], names[::-2]):
        inputs = matrix_inputs(block, wanted, hidden, call)
        assert list(inputs) == list(wanted)
        for name, value in inputs.items():
            assert value.shape == (
                *hidden.shape[:2],
                block.module.get_submodule(name).weight.shape[0 if family == "gpt2" else 1],
            )
            assert torch.equal(value, true[name].reshape(value.shape))
    assert matrix_inputs(block, [], hidden, call) == {}


def test_matrices_fed_the_same_tensor_share_their_input():
    inputs = matrix_inputs(
        *setting("llama")[:1], ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"], *setting("llama")[1:]
    )
    assert inputs["self_attn.q_proj"] is inputs["self_attn.v_proj"]
    assert inputs["self_attn.q_proj"] is not inputs["mlp.up_proj"]


def test_matrix_inputs_are_differentiable_and_nothing_runs_after_the_last():
    block, hidden, call = setting("llama")
    hidden = hidden.clone().requires_grad_()
    ran = []
    handles = [
        matrix.module.register_forward_hook(lambda *_, name=matrix.name: ran.append(name)) for matrix in block.matrices
    ]
    inputs = matrix_inputs(block, ["mlp.up_proj", "self_attn.o_proj"], hidden, call)
    for handle in handles:
        handle.remove()
    assert ran == ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
    (gradient,) = torch.autograd.grad(inputs["mlp.up_proj"].square().sum(), [hidden])
    assert gradient.norm() > 0
    with torch.no_grad():
        assert not matrix_inputs(block, ["mlp.up_proj"], hidden, call)["mlp.up_proj"].requires_grad


@pytest.mark.parametrize("family", EVERY)
def test_a_silenced_half_does_no_work(family):
    """The matrix products of the two halves together are those of the block, and each half runs its own matrices
    only.
    """
    block, hidden, call = setting(family)

    def products(function):
        ran = []
        handles = [
            matrix.module.register_forward_hook(lambda *_, name=matrix.name: ran.append(name))
            for matrix in block.matrices
        ]
        with FlopCounterMode(display=False) as counter:
            function()
        for handle in handles:
            handle.remove()
        return ran, counter.get_total_flops()

    ran, work = zip(
        *(products(lambda half=half: half_output(block, half, hidden, call)) for half in ("attention", "mlp")),
        strict=True,
    )
    assert ran == tuple(
        [matrix.name for matrix in block.matrices if matrix.half == half] for half in ("attention", "mlp")
    )
    assert sum(work) == products(lambda: run(block.module, hidden, call))[1]
    assert work[1] == 2 * hidden[..., 0].numel() * sum(
        matrix.rows * matrix.columns for matrix in block.matrices if matrix.half == "mlp"
    )


@pytest.mark.parametrize("family", EVERY)
def test_no_module_of_a_silenced_half_runs(family):
    """Norms included, save one that the other half reads too: with forwards that fail, the other half's output is
    unchanged.
    """
    block, hidden, call = setting(family)

    def fail(*args, **kwargs):
        raise AssertionError("a silenced module ran")

    for half, other in (("attention", "mlp"), ("mlp", "attention")):
        right = half_output(block, half, hidden, call)
        silent = [
            child.name for child in block.children if child.half == other and not (block.parallel and child.handed)
        ]
        for name in silent:
            block.module.get_submodule(name).forward = fail
        try:
            assert torch.equal(half_output(block, half, hidden, call), right)
        finally:
            for name in silent:
                assert block.module.get_submodule(name).__dict__.pop("forward") is fail


def test_every_block_is_checked_on_its_own_stream():
    model, parts = model_of("gemma3")
    recording = record(model, parts, Windows(*tokens(3), label="random", provenance={}))
    given = []
    handles = [
        block.module.register_forward_pre_hook(lambda module, args: given.append((module, args[0])))
        for block in parts.blocks
    ]
    check_halves(parts, recording, slice(1, 3))
    for handle in handles:
        handle.remove()
    stream = recording.hidden[1:3]
    for block in parts.blocks:
        first = next(hidden for module, hidden in given if module is block.module)
        assert torch.equal(first, stream)
        stream = run(block.module, stream, recording.call(block.index, slice(1, 3)))


def test_a_copy_of_the_block_runs_in_its_place():
    block, hidden, call = setting("llama")
    twin = replace(block, module=copy.deepcopy(block.module))
    twin.module.mlp.down_proj.weight.data.zero_()
    assert torch.equal(half_output(twin, "mlp", hidden, call), hidden)
    assert not torch.equal(half_output(block, "mlp", hidden, call), hidden)


def test_nothing_stays_patched_after_an_error():
    for family, victim in (("llama", "mlp.down_proj"), ("gpt_neox", "mlp.dense_4h_to_h")):
        block, hidden, call = setting(family)
        module = block.module.get_submodule(victim)

        def fail(*args):
            raise ZeroDivisionError

        module.forward = fail
        with pytest.raises(ZeroDivisionError):
            half_output(block, "mlp", hidden, call)
        assert module.__dict__.pop("forward") is fail, "a forward that was put there by others stays"
        assert untouched(block.module)
        before = halves_error(block, hidden, call)
        with pytest.raises(RuntimeError):
            half_output(block, "attention", hidden[..., :-1], call)
        with pytest.raises(RuntimeError):
            matrix_inputs(block, [victim], hidden[..., :-1], call)
        assert untouched(block.module)
        assert halves_error(block, hidden, call) == before


def test_a_forward_put_there_by_others_comes_back():
    block, hidden, call = setting("llama")
    own = block.module.self_attn.forward
    block.module.self_attn.forward = own
    half_output(block, "mlp", hidden, call)
    assert block.module.self_attn.__dict__.pop("forward") is own


def test_wrong_calls():
    block, hidden, call = setting("llama")
    with pytest.raises(UsageError, match="half='ffn' of model.layers.1 is unknown"):
        half_output(block, "ffn", hidden, call)
    with pytest.raises(UsageError, match="mlp.fc1, lm_head is no matrix of model.layers.1; there are mlp.down_proj"):
        matrix_inputs(block, ["mlp.fc1", "mlp.up_proj", "lm_head"], hidden, call)
    block.module.train()
    try:
        for half in sub_blocks.HALVES:
            with pytest.raises(UsageError, match="training mode"):
                half_output(block, half, hidden, call)
    finally:
        block.module.eval()
    assert untouched(block.module)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gemma3", "falcon", "opt"])
def test_check_in_half_precision(family, dtype):
    model, parts = model_of(family, dtype)
    check_halves(
        parts, record(model, parts, Windows(*tokens(3, LENGTH, 0, "both"), label="random", provenance={})), slice(None)
    )


# --- made-up blocks
# ------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A half that is one linear map; `extra`: it returns a tuple, as attention does."""

    def __init__(self, extra=False):
        super().__init__()
        self.map, self.extra = nn.Linear(8, 8), extra

    def forward(self, x):
        return (self.map(x), torch.ones(1), None) if self.extra else self.map(x)


class Layer(nn.Module):
    """A block whose forward is `rule(layer, hidden)`."""

    def __init__(self, rule, extra=False):
        super().__init__()
        self.rule = rule
        self.ln_1, self.attention, self.ln_2, self.fc1, self.fc2 = (
            nn.LayerNorm(8),
            Linear(extra),
            nn.LayerNorm(8),
            nn.Linear(8, 24),
            nn.Linear(24, 8),
        )

    def mlp(self, x):
        return self.fc2(torch.relu(self.fc1(x)))

    def forward(self, hidden_states):
        return self.rule(self, hidden_states)


class Decoder(nn.Module):
    def __init__(self, make):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.layers = nn.Embedding(70, 8), nn.ModuleList(make() for _ in range(2))
            for parameter in self.parameters():
                parameter.data.add_(torch.randn_like(parameter) * 0.3)
        self.config = SimpleNamespace(model_type="made-up")

    @property
    def base_model(self):
        return self

    def forward(self, input_ids, attention_mask, use_cache):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


def made(make):
    model = Decoder(make).eval().requires_grad_(False)
    parts = anatomy(model)
    return parts, record(model, parts, Windows(*tokens(3), label="random", provenance={}))


def in_place(layer, x):
    y = layer.attention(layer.ln_1(x))
    y += x
    return y + layer.mlp(layer.ln_2(y))


def extra(layer, x):
    y = x + layer.attention(layer.ln_1(x))[0]
    return y + layer.mlp(layer.ln_2(y))


def parallel(layer, x):
    return x + layer.attention(layer.ln_1(x)) + layer.mlp(layer.ln_2(x))


@pytest.mark.parametrize(("rule", "several"), [(in_place, False), (extra, True), (parallel, False)])
def test_blocks_nobody_has_heard_of(rule, several):
    parts, recording = made(lambda: Layer(rule, several))
    kept = recording.hidden.clone()
    check_halves(parts, recording, slice(None))
    for block in parts.blocks:
        call = recording.call(block.index, slice(None))
        assert halves_error(block, recording.hidden, call) <= 1e-6
        half_output(block, "mlp", recording.hidden, call)
    assert torch.equal(recording.hidden, kept), "the caller's tensor is never written into"
    assert untouched(parts.blocks[0].module)


def test_halves_in_containers_that_are_never_called():
    class Boxed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.ModuleDict({"norm": nn.LayerNorm(8), "value": nn.Linear(8, 6), "out": nn.Linear(6, 8)})
            self.ffn = nn.ModuleDict({"norm": nn.LayerNorm(8), "up": nn.Linear(8, 24), "down": nn.Linear(24, 8)})

        def forward(self, x):
            x = x + self.attention["out"](self.attention["value"](self.attention["norm"](x)))
            return x + self.ffn["down"](self.ffn["up"](self.ffn["norm"](x)))

    parts, recording = made(Boxed)
    assert [child.name for child in parts.blocks[0].children] == [
        "attention.norm",
        "attention.value",
        "attention.out",
        "ffn.norm",
        "ffn.up",
        "ffn.down",
    ]
    check_halves(parts, recording, slice(None))
    assert halves_error(parts.blocks[0], recording.hidden, Call((HIDDEN,), {})) == 0


def scaled(layer, x):
    y = 2 * x + layer.attention(layer.ln_1(x))
    return y + layer.mlp(layer.ln_2(y))


def memory(layer, x):
    y = x + layer.attention(layer.ln_1(x))
    return y + layer.mlp(layer.ln_2(y)) + 0.01 * x


def chained(layer, x):
    y = layer.ln_1(layer.ln_2(x))
    return x + layer.attention(y) + layer.mlp(y)


def weights(layer, x):
    attention, gate, _ = layer.attention(layer.ln_1(x))
    y = x + attention
    return y + layer.mlp(layer.ln_2(y)) * gate


def divided(layer, x):
    y = layer.attention(layer.ln_1(x))
    y = x + y / y.norm()
    return y + layer.mlp(layer.ln_2(y))


@pytest.mark.parametrize(
    ("words", "rule", "several"),
    [
        ("differ from the block's own output by a relative error of [0-9.]+ \\(allowed 1e-05\\)", scaled, False),
        ("differ from the block's own output", memory, False),
        ("differ from the block's own output", chained, False),
        ("running them failed with TypeError: .*NoneType", weights, True),
        ("differ from the block's own output by a relative error of nan", divided, False),
    ],
)
def test_blocks_that_cannot_be_split_are_refused(words, rule, several):
    parts, recording = made(lambda: Layer(rule, several))
    with pytest.raises(
        UnsupportedModel, match=f"layers.0 \\(Layer\\): its attention and MLP halves cannot be run apart; .*{words}"
    ):
        check_halves(parts, recording, slice(None))
    assert untouched(parts.blocks[0].module)


def test_only_real_tokens_count_and_every_window_does():
    """A block that is split wrongly at one padded position, or in one window of three."""
    parts, recording = made(lambda: Layer(parallel))
    twisted = [replace(block, parallel=False) for block in parts.blocks]

    def masked(mask):
        return replace(recording, windows=replace(recording.windows, mask=mask))

    with pytest.raises(UnsupportedModel, match="layers.0"):
        check_halves(replace(parts, blocks=tuple(twisted)), recording, slice(None))
    check_halves(replace(parts, blocks=tuple(twisted)), masked(torch.zeros_like(recording.mask)), slice(None))
    one = torch.zeros_like(recording.mask)
    one[2, 3] = True
    with pytest.raises(UnsupportedModel, match="layers.0"):
        check_halves(replace(parts, blocks=tuple(twisted)), masked(one), slice(None))


def test_a_half_that_starts_with_no_row_per_token_is_an_error():
    def folded(layer, x):
        y = x + layer.attention(layer.ln_1(x))
        return y + layer.mlp(layer.ln_2(y.unsqueeze(0).repeat(2, 1, 1, 1))[0])

    parts, recording = made(lambda: Layer(folded))
    with pytest.raises(
        ReplayError, match="ln_2 was given a tensor \\(2, 3, 24, 8\\) in a forward of hidden states \\(3, 24, 8\\)"
    ):
        half_output(parts.blocks[0], "attention", recording.hidden, recording.call(0, slice(None)))
    with pytest.raises(UnsupportedModel, match="one row per token"):
        check_halves(parts, recording, slice(None))
