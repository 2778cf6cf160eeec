"""A model in two halves is the model; what is made portion by portion is what is made at once, and stays small."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from analysis.measure.perplexity import perplexity
from analysis.models import logits
from analysis.models.anatomy import anatomy
from analysis.models.logits import ending, split_model
from analysis.reconstruction.losses import LOSSES, over_vocabulary
from analysis.streams.streams import advance, open_streams
from analysis.structured.criteria import mask_gradients, token_batches
from analysis.structured.find import structures
from analysis.windows import Windows
from tests.helpers.families import FAMILIES, QUICK, tiny, tokens
from tests.helpers.small import small_llama


class Largest(TorchDispatchMode):
    """Records how many elements the largest tensor has that any operation returns while open."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return output


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_body_and_head_give_the_models_own_logits(family):
    model, (ids, mask) = tiny(family), tokens(3, padding="right")
    expected = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    split = split_model(model)
    hidden = split.hidden(ids, mask)
    assert torch.equal(split.logits(hidden), expected)
    torch.testing.assert_close(split.logits(hidden[1:2, 3:7]), expected[1:2, 3:7], rtol=1e-6, atol=1e-6)
    assert split.vocabulary == 64 and not split.body._forward_hooks and "forward" not in vars(split.body)


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_perplexity_goes_on_from_the_streams_without_running_a_block(family):
    model, (ids, mask) = tiny(family), tokens(3, padding="right")
    parts, text = anatomy(model), Windows(ids, mask, "text")
    streams = open_streams(model, parts, "text", text, apart=False)
    for block in parts.blocks:
        advance([block.module], block.index, streams.recording, streams.dense, out=streams.dense)
    end, expected, ran = ending(model, [block.module for block in parts.blocks]), perplexity(model, text), []
    assert end is not None and end.dtype == torch.float32
    hooks = [
        m.register_forward_hook(lambda *_: ran.append(1)) for b in parts.blocks for _, m in b.module.named_children()
    ]
    found = perplexity(model, text, batch=2, hidden=streams.dense, end=end)
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-6) and hooks and not ran
    assert not any("forward" in vars(block.module) for block in parts.blocks)
    moved = perplexity(model, text, hidden=streams.dense.flip(0), end=end)
    assert abs(moved.nats_per_token - expected.nats_per_token) > 1e-4, "it is these states that are read"


def test_logits_that_blocks_do_not_decide_are_not_taken_from_streams():
    model = tiny("llama")
    kept, norm = [], model.model.norm
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: kept.append(output))
    norm.register_forward_hook(lambda module, args, output: output + kept.pop() if kept else output)
    assert ending(model, [block.module for block in anatomy(model).blocks]) is None


def test_a_head_that_sees_other_tokens_is_not_taken_for_one():
    model = tiny("llama")
    forward = model.lm_head.forward
    model.lm_head.forward = lambda x: forward(x) + model.model.embed_tokens.weight.mean() + len(shown)
    shown = []
    model.model.register_forward_hook(lambda *_: shown.append(1))
    assert split_model(model) is None


@pytest.mark.slow
@pytest.mark.parametrize("padding", [None, "right"])
@pytest.mark.parametrize("loss", ["ce", "distill"])
def test_a_loss_by_portions_is_the_loss_and_has_its_gradients(loss, padding, monkeypatch):
    ids, mask = tokens(3, padding=padding)
    dense = split_model(tiny("gemma2", seed=1))  # caps its logits, and ties its embeddings
    wanted = ids if loss == "ce" else dense.hidden(ids, mask)

    def trained(bound: int):
        monkeypatch.setattr(logits, "LOGITS", bound)
        split = split_model(model := tiny("gemma2").requires_grad_(True))
        value = over_vocabulary(loss, split.hidden(ids, mask), wanted, mask if padding else None, split, dense)
        value.backward()
        return value.detach(), [parameter.grad for parameter in model.parameters()]

    (whole, gradients), (parts, others) = trained(2**27), trained(64 * 5)
    real = mask if padding else None
    target = ids if loss == "ce" else dense.logits(wanted)
    assert torch.equal(whole, LOSSES[loss](tiny("gemma2")(ids, attention_mask=mask.long()).logits, target, real))
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_logits_of_a_large_vocabulary_stay_under_the_bound(monkeypatch):
    monkeypatch.setattr(logits, "LOGITS", 2**20)
    model = small_llama(hidden=8, blocks=1)
    model.resize_token_embeddings(65536)
    ids = torch.randint(65536, (4, 32), generator=torch.Generator().manual_seed(0))  # 2**23 logits in all
    mask = torch.ones_like(ids, dtype=torch.bool)
    split = split_model(model)
    with Largest() as seen:
        perplexity(model, Windows(ids, mask))
    assert 2**19 < seen.elements <= 2**20
    for loss in ("ce", "distill"):
        hidden = split.hidden(ids).requires_grad_(True)
        wanted = ids if loss == "ce" else split.hidden(ids)
        with Largest() as seen:
            over_vocabulary(loss, hidden, wanted, None, split, split).backward()
        assert 2**19 < seen.elements <= 2**20 and bool(hidden.grad.isfinite().all())


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("family", ["opt", "gemma2"])
def test_perplexity_by_portions_is_the_perplexity(family, splits, monkeypatch):
    model, windows = tiny(family), Windows(*tokens(7, padding="right"))
    expected = perplexity(model, windows)
    monkeypatch.setattr(logits, "LOGITS", 64 * 10)
    if not splits:
        monkeypatch.setattr("analysis.measure.perplexity.split_model", lambda model: None)
    result = perplexity(model, windows)
    assert result.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-6)
    assert result.tokens == expected.tokens


@pytest.mark.slow
def test_gradients_of_structures_by_portions_are_the_gradients(monkeypatch):
    model, windows = tiny("llama"), Windows(*tokens(3, padding="right"))
    found = structures(model, kinds=["neurons"])
    expected = mask_gradients(model, found, token_batches(windows, 2))
    monkeypatch.setattr(logits, "LOGITS", 64 * 10)
    with Largest() as seen:
        given = mask_gradients(model, found, token_batches(windows, 2))
    assert seen.elements < 2 * 24 * 64
    for name, gradient in given.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
