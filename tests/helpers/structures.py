"""Masks of whole structures, a model's answers on real tokens, and pruning of structures by hand, without the loop."""

import copy

import torch
from torch import Tensor, nn

from analysis.models.anatomy import anatomy_of_copy
from analysis.streams.moments import one_stream
from analysis.streams.streams import advance, open_streams
from analysis.structured.budget import select
from analysis.structured.criteria import (
    Evidence,
    consumer_statistics,
    mask_gradients,
    ranking,
    structure_scores,
    token_batches,
)
from analysis.structured.find import structures
from analysis.structured.pairs import Structures, column_mask, remove, structure_of_column, structures_of_copy
from analysis.structured.repair import Repaired, repair
from analysis.structured.targets import two_streams
from analysis.windows import Windows

ACROSS_HEADS = ("olmo2",)  # their query and key norms span all heads


def half_kept(removable, seed: int = 0) -> dict[str, torch.Tensor]:
    """About half of every pair's structures, equally many in every group."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for pair in removable:
        mask = torch.zeros(pair.count, dtype=torch.bool)
        for group in torch.arange(pair.count).view(-1, pair.units):
            mask[group[torch.rand(pair.units, generator=generator).argsort()[: (pair.units + 1) // 2]]] = True
        masks[pair.name] = mask
    return masks


def logits(model: nn.Module, ids, mask) -> torch.Tensor:
    output = model(input_ids=ids, attention_mask=mask.long())
    return output[0][mask] if output[0].ndim == 3 else output[0]


def chosen_by_hand(model: nn.Module, windows: Windows, criterion: str, kinds, scope: str, removed: float = 0.5):
    """Structures, Gram matrices and masks of the dense model, from one pass over the windows."""
    batches, pairs = list(token_batches(windows, 8)), structures(model, kinds=kinds)
    statistics = consumer_statistics(model, pairs, batches, want="gram")
    gradients = mask_gradients(model, pairs, batches)
    generator = torch.Generator().manual_seed(0)
    scores = {
        pair.name: structure_scores(criterion, pair, Evidence(statistics[pair.name], gradients[pair.name]), generator)
        for pair in pairs
    }
    return pairs, statistics, select(pairs, scores, removed, scope=scope, rule=ranking(criterion))


def repaired_by_hand(
    pairs: Structures, masks: dict[str, Tensor], statistics, method: str, penalty: float
) -> dict[str, Repaired]:
    """The repair of every pair from the statistics of one pass: {pair's name: Repaired}."""
    results = {}
    for pair in pairs:
        weight, bias = pair.consumer.weight(), pair.consumer.module.bias
        results[pair.name] = repair(
            method,
            weight,
            bias,
            column_mask(pair, masks[pair.name]),
            one_stream(weight, bias, statistics[pair.name]),
            owner=structure_of_column(pair),
            penalty=penalty,
            name=pair.name,
        )
    return results


def copy_with_structures(model: nn.Module, pairs: Structures) -> tuple[nn.Module, Structures]:
    """A copy of the model and the same structures in it."""
    twin = copy.deepcopy(model)
    return twin, structures_of_copy(pairs, anatomy_of_copy(pairs.parts, twin))


def two_streams_by_hand(
    model: nn.Module, pairs: Structures, masks: dict[str, Tensor], windows: Windows, penalty: float
):
    """LIAR on two streams, block by block: the pruned copy."""
    twin, twin_pairs = copy_with_structures(model, pairs)
    streams = open_streams(model, pairs.parts, "calibration", windows)
    remove(twin_pairs, masks)
    for dense, pruned in zip(pairs.parts.blocks, twin_pairs.parts.blocks, strict=True):
        for source, pair in zip(pairs, twin_pairs, strict=True):
            if pair.block == dense.index:
                weight, bias = source.consumer.weight(), source.consumer.module.bias
                sums = two_streams(dense, pruned, pair.consumer, streams)
                kept = column_mask(pair, masks[pair.name])
                repair("liar", weight, bias, kept, sums, penalty=penalty, name=pair.name).install(pair.consumer)
        for block, hidden in ((dense, streams.dense), (pruned, streams.sparse)):
            advance([block.module], block.index, streams.recording, hidden, out=hidden)
    return twin
