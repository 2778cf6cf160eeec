"""Encoders without a head: a sentence's embedding is its last hidden states, pooled over its real tokens, and two
sentences are as alike as the cosine of their embeddings (Reimers and Gurevych 2019, arXiv 1908.10084).

How states are pooled stands in the checkpoint's `1_Pooling/config.json`, as sentence-transformers writes it, else in
`config.sentence_pooling`, which a loaded model carries along; else it is their mean.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analysis import storage
from analysis.errors import DataError, ModelError, UnsupportedModel
from analysis.models.hub import POOLING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

POOLINGS = ("mean", "cls", "max")
_WORDS = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}  # of 1_Pooling/config.json
_HARMLESS = ("Transformer", "Pooling", "Normalize")  # modules that a cosine of pooled states already stands for


def is_encoder(config: "PreTrainedConfig") -> bool:
    """Whether a config is that of a family whose every token sees the whole text, such as BERT."""
    from transformers import AutoModelForMaskedLM

    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return masked and not config.is_encoder_decoder and not getattr(config, "is_decoder", False)


def embeds(model: nn.Module) -> bool:
    """Whether a transformers model is such an encoder, without a head of any kind."""
    network = cast(Any, model)
    return getattr(network, "base_model", None) is model and is_encoder(network.config)


def read_pooling(folder: Path, name: str) -> str | None:
    """How the checkpoint in `folder` says that hidden states are pooled, one of `POOLINGS`; None where it says nothing.

    Raises ModelError for files that are no JSON, UnsupportedModel for another pooling, or modules behind it that change
    the embedding (`modules.json`).
    """
    path, modules = folder / POOLING, folder / "modules.json"
    try:
        kinds = [entry["type"].rpartition(".")[2] for entry in storage.read_json(modules)] if modules.is_file() else []
        told = storage.read_json(path) if path.is_file() else None
        asked = [] if told is None else [key for key, value in told.items() if key.startswith("pooling_mode") and value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model {name!r}: modules.json or 1_Pooling/config.json in {folder} is broken ({error})"
        ) from None
    if others := [kind for kind in kinds if kind not in _HARMLESS]:
        raise UnsupportedModel(
            f"model {name!r}: {modules} names {', '.join(others)} behind the encoder, which is not applied here; only"
            " pooled hidden states are compared"
        )
    if told is None:
        return None
    found = [word for word, key in _WORDS.items() if asked == [f"pooling_mode_{key}"]]
    found = found or [word for word in POOLINGS if asked == ["pooling_mode"] and told["pooling_mode"] == word]
    if not found:
        raise UnsupportedModel(
            f"model {name!r}: {path} pools hidden states by {', '.join(asked) or 'nothing'}; possible are"
            f" {', '.join(POOLINGS)}"
        )
    return found[0]


def pooling(model: nn.Module) -> str:
    """How a model's hidden states are pooled: one of `POOLINGS`."""
    return getattr(cast(Any, model).config, "sentence_pooling", None) or "mean"


def pooled(model: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    """Embeddings (B, H) float32 of hidden states (B, T, H) over the real tokens of mask (B, T)."""
    hidden, mask, kind = hidden.float(), mask.bool()[:, :, None], pooling(model)
    if kind == "cls":  # the first real token
        return hidden[torch.arange(len(hidden)), mask[:, :, 0].int().argmax(1)]
    if kind == "max":
        return hidden.masked_fill(~mask, -torch.inf).amax(1)
    return (hidden * mask).sum(1) / mask.sum(1)


def pair_rows(pairs: Tensor | None, where: str) -> tuple[Tensor, Tensor]:
    """Rows (M,) of the first and of the second sentence of each pair, for the number of the pair that each of 2 M rows
    belongs to. Raises DataError unless every pair has both.
    """
    if pairs is None or len(pairs) % 2:
        raise DataError(f"{where}: sentences stand in pairs, and one has no second; draw them with load_examples")
    order = torch.argsort(pairs, stable=True)
    first, second = order[0::2], order[1::2]
    if not torch.equal(pairs[first], pairs[second]) or len(pairs[first].unique()) < len(first):
        raise DataError(f"{where}: sentences stand in pairs, and one has no second; draw them with load_examples")
    return first, second


def cosines(vectors: Tensor, pairs: Tensor | None, where: str) -> tuple[Tensor, Tensor]:
    """Cosine (M,) of the two embeddings of each pair, of embeddings (2 M, H), and the row of its first sentence."""
    first, second = pair_rows(pairs, where)
    return cosine_similarity(vectors[first], vectors[second]), first


def pair_loss(model: "PreTrainedModel", arguments: dict[str, Tensor]) -> Tensor:
    """Mean squared error of the cosines of pairs, with respect to `labels` from 0 to 1 (sentence-transformers'
    CosineSimilarityLoss). arguments: those of a forward, and `labels` and `pairs`, (2 M,) each.
    """
    given = {name: value for name, value in arguments.items() if name not in ("labels", "pairs")}
    vectors = pooled(model, model(**given).last_hidden_state, given["attention_mask"])
    found, first = cosines(vectors, arguments["pairs"], "loss of sentence pairs")
    return (found - arguments["labels"][first]).square().mean()
