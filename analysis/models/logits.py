"""A language model in two: the body once, then its head on as many tokens at a time as memory allows.

The logits of a few windows are by far the largest tensor of a model with a large vocabulary: 8 windows of 2,048 tokens
over 262,144 words take 16 GiB. Whoever needs them for more tokens than `SplitModel.portion` takes them portion by
portion. And where the hidden states behind the last block are there already, no block runs (`Ending`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from analysis.models.anatomy import evaluating
from analysis.models.hooks import hooked, replaced, stoppable
from analysis.models.load import embedding_rows, unwrapped

LOGITS = 2**27
"""Most logits held at once, on whatever device: 512 MiB in float32."""


def portion(width: int) -> int:
    """How many rows of logits are held at once, each of so many."""
    return max(1, LOGITS // width)


def vocabulary(model: nn.Module) -> int:
    """How many logits a token has."""
    network = unwrapped(model)
    output = cast(Any, network).get_output_embeddings()
    return embedding_rows(network) if output is None else output.weight.shape[0]


@dataclass(frozen=True, eq=False)
class SplitModel:
    """A causal language model's own forward, cut between its body and its head.

    body: the module whose output the head reads. vocabulary: how many logits a token has.
    """

    model: nn.Module
    body: nn.Module
    vocabulary: int
    _output: type

    @property
    def portion(self) -> int:
        """How many tokens' logits are held at once."""
        return portion(self.vocabulary)

    def hidden(self, ids: Tensor, mask: Tensor | None = None, pictures: Mapping[str, Tensor] | None = None) -> Tensor:
        """What the head reads: ids (B, T), token mask (B, T) or None where all are real -> (B, T, H). pictures: what
        else the forward is given (`windows.Pictures.inputs`).
        """
        return _body_output(self.model, self.body, ids, mask, pictures or {})[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) of any tokens' hidden states (B, T, H), all that the model does to them included
        (a scale, a cap).
        """
        output = (hidden,) if self._output is tuple else self._output(last_hidden_state=hidden)
        ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        with replaced([(self.body, lambda *_, **__: output)]):
            return self.model(input_ids=ids, use_cache=False).logits


def split_model(model: nn.Module) -> SplitModel | None:
    """A causal language model cut in two; None where no two halves of it give its own logits. Runs it on two tokens."""
    network = unwrapped(model)
    ids = torch.zeros(1, 2, dtype=torch.long, device=network.device)
    embedding, entered = network.get_input_embeddings(), []
    holders = [module for module in network.modules() if module is not network and embedding in module.modules()]
    before = [(module, lambda module, args, kwargs: entered.append(module)) for module in holders]
    with hooked(before), evaluating(network):
        expected = network(input_ids=ids, use_cache=False).logits
        output = _body_output(network, entered[0], ids, None, {})
        named = is_dataclass(output) and fields(output)[0].name == "last_hidden_state"
        split = SplitModel(network, entered[0], expected.shape[-1], type(output) if named else tuple)
        same = entered[0] is not embedding and torch.equal(split.logits(split.hidden(ids)), expected)
    return split if same else None


@dataclass(frozen=True, eq=False)
class Ending:
    """What a causal language model does behind its last block (final norm, head), in its own forward.

    dtype: of the last block's output. forms: what each block returns, the length of a tuple or 0 for a tensor.
    """

    blocks: tuple[nn.Module, ...]
    forms: tuple[int, ...]
    dtype: torch.dtype

    @contextmanager
    def behind(self, hidden: Tensor) -> Iterator[None]:
        """While open, forwards of B windows of T tokens run no block and go on from `hidden` (B, T, H), the output of
        the last.
        """

        def forward(length: int):
            return lambda *_, **__: (hidden, *[None] * (length - 1)) if length else hidden

        with replaced([(block, forward(length)) for block, length in zip(self.blocks, self.forms, strict=True)]):
            yield


def ending(model: nn.Module, blocks: Sequence[nn.Module]) -> Ending | None:
    """The end of a causal language model with these blocks; None where what they hand on does not decide its logits.
    Runs it on two tokens.
    """
    network = cast(Any, unwrapped(model))
    ids = torch.zeros(1, 2, dtype=torch.long, device=network.device)
    outputs: list[Any] = []
    with evaluating(network):
        with hooked(after=[(block, lambda module, args, output: outputs.append(output)) for block in blocks]):
            expected = network(input_ids=ids, use_cache=False).logits
        forms = tuple(len(output) if isinstance(output, tuple | list) else 0 for output in outputs)
        if len(forms) != len(blocks):
            return None
        hidden = outputs[-1][0] if forms[-1] else outputs[-1]
        found = Ending(tuple(blocks), forms, hidden.dtype)
        with found.behind(hidden):
            same = torch.equal(network(input_ids=ids, use_cache=False).logits, expected)
    return found if same else None


def _body_output(
    model: nn.Module, body: nn.Module, ids: Tensor, mask: Tensor | None, pictures: Mapping[str, Tensor]
) -> Any:
    found: list[Any] = []

    def take(module, args, output):
        found.append(output)
        stop()

    real = None if mask is None else mask.long()
    with stoppable() as stop, hooked(after=[(body, take)]):
        cast(Any, model)(input_ids=ids, attention_mask=real, **pictures, use_cache=False)
    return found[0]
