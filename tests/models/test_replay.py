"""Promise 1, exact replay: for every family, batched and padded, for any windows in any order; and the wrong calls
beside it.
"""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from analysis.errors import NumericalError, ReplayError, UnsupportedModel, UsageError
from analysis.models.anatomy import anatomy
from analysis.models.block_arguments import HIDDEN, Call, tensors
from analysis.models.replay import random_windows, record, replay_error, run, verify
from analysis.windows import Windows
from tests.helpers.encoders import ENCODERS, encoder
from tests.helpers.families import EXPERTS, FAMILIES, LENGTH, MIXED, tiny, tokens
from tests.helpers.small import small_llama


def windows(count, padding=None, length=LENGTH, seed=0):
    return Windows(*tokens(count, length, seed, padding), label="random", provenance={})


@functools.cache
def model_of(family, attention=None):
    model = tiny(family, attention=attention)
    return model, anatomy(model)


def true_hidden(model, parts, ids, mask):
    """Inputs of every block and the output of the last, as the model itself computes them."""
    found = []

    def enter(module, args, kwargs):
        found.append(args[0] if args else kwargs["hidden_states"])

    def leave(module, args, output):
        last.append(output[0] if isinstance(output, tuple) else output)

    last = []
    handles = [block.module.register_forward_pre_hook(enter, with_kwargs=True) for block in parts.blocks]
    handles.append(parts.blocks[-1].module.register_forward_hook(leave))
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    for handle in handles:
        handle.remove()
    return found + last


def distance(ours, true, mask):
    return ((ours - true)[mask].norm() / true[mask].norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("padding", [None, "left", "right", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_promise_1_replay_is_exact(family, padding):
    model, parts = model_of(family)
    for batch in (1, 3):
        table = replay_error(model, parts, windows(4, padding), batch=batch)
        assert table.relative_error.max() <= 1e-5
        assert list(table.columns) == ["block", "name", "relative_error"]
        assert list(table.name) == [block.name for block in parts.blocks]


@pytest.mark.parametrize("padding", [None, "both"])
@pytest.mark.parametrize("family", ["llama", *MIXED, "gpt2", "gpt_neo", "opt"])
def test_replay_is_exact_with_eager_attention(family, padding):
    model, parts = model_of(family, "eager")
    assert replay_error(model, parts, windows(3, padding), batch=2).relative_error.max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_any_windows_in_any_order(family):
    model, parts = model_of(family)
    data = windows(5, "both")
    recording = record(model, parts, data, batch=2)
    for rows in (torch.tensor([4, 0, 0, 2]), torch.tensor([3]), slice(1, 4), torch.tensor([1, 3])):
        true = true_hidden(model, parts, data.ids[rows], data.mask[rows])
        hidden = recording.hidden[rows]
        assert distance(hidden, true[0], data.mask[rows]) == 0
        for block in parts.blocks:
            with torch.no_grad():
                hidden = run(block.module, hidden, recording.call(block.index, rows))
            assert distance(hidden, true[block.index + 1], data.mask[rows]) <= 1e-5


@pytest.mark.parametrize("padding", [None, "both"])
@pytest.mark.parametrize("family", MIXED)
def test_block_0_arguments_everywhere_would_be_wrong_in_silence(family, padding):
    model, parts = model_of(family)
    recording = record(model, parts, windows(3, padding))
    recording.calls = (recording.calls[0],) * len(parts.blocks)
    assert replay_error(model, parts, recording).relative_error.max() > 0.01
    with pytest.raises(ReplayError, match="worst model.layers"):
        verify(model, parts, recording)


def test_one_window_mask_for_all_would_be_wrong():
    model, parts = model_of("llama")
    data = windows(4, "both")
    recording = record(model, parts, data)
    hidden = recording.hidden
    for block in parts.blocks:
        call = recording.call(block.index, torch.zeros(4, dtype=torch.long))
        hidden = run(block.module, hidden, call)
    assert distance(hidden, true_hidden(model, parts, data.ids, data.mask)[-1], data.mask) > 0.01


def test_trap_1_every_row_of_a_batch_has_its_own_output():
    model, parts = model_of("llama")
    recording = record(model, parts, windows(2))
    output = run(parts.blocks[0].module, recording.hidden, recording.call(0, slice(None)))
    assert output.shape == recording.hidden.shape
    assert distance(output[0], output[1], torch.ones(LENGTH, dtype=torch.bool)) > 0.1


@pytest.mark.slow
def test_as_many_windows_as_tokens_and_heads():
    """8 windows of 8 tokens: sizes alone do not tell windows from tokens."""
    for family in ("llama", "gemma3", "bloom", "opt"):
        model, parts = model_of(family)
        recording = record(model, parts, windows(8, length=8), batch=8)
        assert replay_error(model, parts, recording, batch=3).relative_error.max() <= 1e-5


def test_one_padded_window_among_many():
    """Batches without padding are given no mask by transformers; a witness keeps the form the same in all."""
    model, parts = model_of("gemma3")
    ids, mask = tokens(5)
    mask[3, -6:] = False
    recording = record(model, parts, Windows(ids, mask, "one padded", {}), batch=2)
    assert len(recording.hidden) == 5
    assert replay_error(model, parts, recording, batch=2).relative_error.max() <= 1e-5


def uneven(lengths=(4, LENGTH, 7, LENGTH - 1)):
    """Windows of these many tokens, padded behind."""
    ids, _ = tokens(len(lengths))
    return Windows(ids, torch.arange(LENGTH) < torch.tensor(lengths)[:, None], "uneven", {})


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in EXPERTS)])
def test_padding_behind_is_left_out_and_replay_stays_exact(family, attention):
    """One window at a time, each is run on its own tokens alone; together on those of the longest."""
    model, parts = model_of(family, attention)
    recording = record(model, parts, uneven(), batch=3)
    assert [recording.longest(torch.tensor([row])) for row in (0, 2)] == [4, 7]
    assert recording.longest(slice(0, 3)) == recording.longest(torch.tensor([0, 1])) == LENGTH
    for batch in (1, 3):
        assert replay_error(model, parts, recording, batch=batch).relative_error.max() <= 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_behind_is_left_out_of_encoders(name):
    model = encoder(name)
    parts = anatomy(model)
    recording = record(model, parts, uneven(), batch=3)
    assert recording.longest(torch.tensor([0])) == 4
    assert replay_error(model, parts, recording, batch=1).relative_error.max() <= 1e-5


def test_padding_that_stands_elsewhere_is_not_left_out():
    for text in (windows(4, "left"), windows(4, "both"), windows(4), uneven((LENGTH - 1, LENGTH))):
        recording = record(*model_of("llama"), text)
        assert recording.lengths is None and recording.longest(slice(0, 1)) == LENGTH


def test_what_depends_on_the_number_of_tokens_keeps_its_padding():
    """A family whose arguments for fewer tokens are no part of those for all."""
    model, parts = model_of("llama")
    rotary = model.model.rotary_emb
    forward = rotary.forward

    def stretched(x, position_ids, **more):
        return tuple(part * x.shape[1] for part in forward(x, position_ids, **more))

    rotary.forward = stretched
    try:
        recording = record(model, parts, uneven())
        assert recording.lengths is None and recording.longest(slice(0, 1)) == LENGTH
    finally:
        del rotary.forward


def test_a_tensor_is_kept_once():
    model, parts = model_of("llama")
    plain, padded = record(model, parts, windows(6)), record(model, parts, windows(6, "both"), batch=4)
    assert len(plain.slots) == 3  # position ids, cosine, sine: for all blocks and all windows together
    assert len(padded.slots) == 4  # and one mask
    assert [slot.value.shape[0] for slot in padded.slots if slot.factor and slot.value.shape[0] > 1] == [6]
    eager, parts = model_of("llama", "eager")
    assert all(slot.value.shape[0] == 1 for slot in record(eager, parts, windows(6), batch=4).slots)


def test_shared_arguments_are_views():
    model, parts = model_of("llama", "eager")
    recording = record(model, parts, windows(6))
    mask = next(tensor for tensor in tensors(recording.call(0, slice(0, 5))) if tensor.ndim == 4)
    assert mask.shape[0] == 5 and mask.stride(0) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "opt", "gpt_neox"])
def test_no_cache_is_recorded(family):
    model = tiny(family)
    model.config.use_cache = True
    recording = record(model, anatomy(model), windows(2))
    for call in recording.calls:
        assert not {"past_key_values", "layer_past", "use_cache"} & call.kwargs.keys()
        assert not any(hasattr(leaf, "get_seq_length") for leaf in call.args)
        assert (HIDDEN in call.args) + (HIDDEN in call.kwargs.values()) == 1


def test_run_is_differentiable_and_recording_is_not():
    model, parts = model_of("gemma3")
    recording = record(model, parts, windows(2, "right"))
    assert not recording.hidden.requires_grad
    hidden = recording.hidden.clone().requires_grad_()
    weight = parts.blocks[1].module.mlp.down_proj.weight.requires_grad_()
    run(parts.blocks[1].module, hidden, recording.call(1, slice(None))).square().sum().backward()
    assert hidden.grad.abs().sum() > 0 and weight.grad.abs().sum() > 0
    weight.requires_grad_(False).grad = None


def test_recording_is_in_evaluation_mode_and_leaves_the_model_as_it_was():
    model = tiny("gpt2").train()
    parts = anatomy(model)
    one, two = record(model, parts, windows(3)), record(model, parts, windows(3))
    assert torch.equal(one.hidden, two.hidden), "dropout is off"
    assert model.training and model.transformer.h[0].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in block.module.__dict__ for block in parts.blocks)
    with pytest.raises(UsageError, match="training mode"):
        run(parts.blocks[0].module, one.hidden, one.call(0, slice(None)))


def test_blocks_are_not_computed_while_recording():
    """Recording costs forwards of one and two windows, whatever the number of windows."""
    model, parts = model_of("llama")
    seen = []
    handle = (
        parts.blocks[0].matrices[0].module.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    )
    record(model, parts, windows(20), batch=8)
    handle.remove()
    assert seen == [1]


def test_hidden_states_go_where_the_caller_has_room():
    model, parts = model_of("llama")
    made = []

    def store(shape, dtype, device):
        made.append((shape, dtype, device.type))
        return torch.empty(shape, dtype=dtype)

    recording = record(model, parts, windows(3), batch=2, store=store)
    assert made == [((3, LENGTH, 32), torch.float32, "cpu")]
    assert torch.equal(recording.hidden, record(model, parts, windows(3)).hidden)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_verify_in_half_precision(dtype):
    model = tiny("gemma3").to(dtype)
    parts = anatomy(model)
    verify(model, parts, windows(3, "both"))
    recording = record(model, parts, windows(3))
    recording.calls = (recording.calls[0],) * 4
    with pytest.raises(ReplayError):
        verify(model, parts, recording)


def test_verify_names_the_block_that_is_wrong_and_nan_never_passes():
    model, parts = model_of("llama")
    recording = record(model, parts, windows(2))
    assert verify(model, parts, recording).relative_error.max() <= 1e-5
    recording.hidden = recording.hidden * float("nan")
    with pytest.raises(ReplayError, match="4 of 4 blocks differ .* first is model.layers.0"):
        verify(model, parts, recording)


def test_no_windows():
    model, parts = model_of("llama")
    with pytest.raises(UsageError, match="0 windows"):
        record(
            model, parts, Windows(torch.zeros(0, 4, dtype=torch.long), torch.ones(0, 4, dtype=torch.bool), "none", {})
        )


def test_a_sliding_window_that_varies_from_layer_to_layer():
    """Where a config has `per_layer_config` transformers refuses to name one for all layers."""

    class Config:
        max_position_embeddings = 128

        def __init__(self):
            self.__dict__["sliding_window"] = 80

        def get_text_config(self):
            return self

        @property
        def sliding_window(self):
            raise RuntimeError("may vary across layers")

    model = small_llama(blocks=1, hidden=16)
    model.config = Config()
    assert random_windows(model, count=2).ids.shape == (2, 96)


# --- made-up decoders whose blocks are called in unusual ways
# ----------------------------------------------------------


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden_states, memory=None, note=None):
        return (hidden_states + self.mlp(self.attention(hidden_states)) * memory, None)


class Decoder(nn.Module):
    """`drive(hidden, previous_memory, ids) -> (memory, note)` gives each layer's further arguments; hidden states go by
    keyword.
    """

    def __init__(self, drive):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.layers = nn.Embedding(70, 8), nn.ModuleList(Layer() for _ in range(3))
        self.config, self.drive = SimpleNamespace(model_type="made-up"), drive

    @property
    def base_model(self):
        return self

    def forward(self, input_ids, attention_mask, use_cache):
        x, memory = self.embed(input_ids), None
        for layer in self.layers:
            memory, note = self.drive(x, memory, input_ids)
            x = layer(hidden_states=x, memory=memory, note=note)[0]
        return x


def test_arguments_that_blocks_before_have_computed_are_refused():
    """Keys and values shared across layers: of the dense model they would be wrong for the pruned one."""
    model = Decoder(lambda x, memory, ids: (x.mean(dim=(1, 2), keepdim=True), None))
    with pytest.raises(UnsupportedModel, match="layers.1 .*is passed what blocks before it compute \\(memory\\)"):
        replay_error(model, anatomy(model), windows(5), batch=2)


def test_blocks_that_hand_on_more_than_hidden_states_are_refused():
    """Reformer's two streams: its forward cannot go on from a block that hands its input on."""

    class Named(Layer):
        def forward(self, hidden_states, memory=None, note=None):
            hidden = super().forward(hidden_states, 1.0)[0]
            return SimpleTuple((hidden, hidden))

    class SimpleTuple(tuple):
        second = property(lambda self: self[1])

    class Streams(Decoder):
        def forward(self, input_ids, attention_mask, use_cache):
            x = self.embed(input_ids)
            for layer in self.layers:
                x = layer(hidden_states=x).second
            return x

    model = Streams(None)
    model.layers = nn.ModuleList(Named() for _ in range(2)).eval()
    with pytest.raises(UnsupportedModel, match="made-up: its blocks hand on something else than hidden states"):
        record(model, anatomy(model), windows(2))


@pytest.mark.parametrize(
    ("words", "drive"),
    [
        ("differs between batches", lambda x, memory, ids: (ids.double().mean().float(), None)),
        ("change their form", lambda x, memory, ids: (ids[..., None].float(), int(ids[0, 0]))),
        ("one dimension alone may count windows", lambda x, memory, ids: (ids[..., None].float(), ids @ ids.T)),
    ],
)
def test_arguments_that_cannot_be_replayed_are_refused(words, drive):
    model = Decoder(drive)
    with pytest.raises(UnsupportedModel, match=words):
        record(model, anatomy(model), windows(5), batch=2)


def test_a_block_must_keep_the_shape():
    with pytest.raises(ReplayError, match="must keep their shape"):
        run(nn.Linear(8, 4).eval(), torch.zeros(2, 3, 8), Call((HIDDEN,), {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hidden_states_that_overflow_are_said_to(dtype):
    model = small_llama(blocks=2, dtype=dtype)
    mlp = model.model.layers[1].mlp
    for matrix, factor in ((mlp.gate_proj, 50), (mlp.up_proj, 50), (mlp.down_proj, 1e4)):
        matrix.weight.mul_(factor)
    if dtype == torch.bfloat16:
        verify(model, anatomy(model), windows(2))
        return
    with pytest.raises(NumericalError, match="layers.1: .*not finite in float16; they overflow .*bfloat16 or float32"):
        verify(model, anatomy(model), windows(2))
