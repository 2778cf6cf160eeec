"""How good the dense and the pruned model are on each text: perplexity of language models, scores of models that answer
labelled examples; and a dense model that keeps what was found out about it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import NumericalError
from analysis.measure.perplexity import Perplexity, perplexity
from analysis.measure.scores import Score, score
from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.load import LoadedModel
from analysis.models.logits import Ending
from analysis.models.task_heads import head
from analysis.streams.streams import free_bytes
from analysis.windows import Windows


@dataclass(eq=False)
class DenseModel:
    """A dense model that keeps what runs find out about it: for callers with many runs of one model on the same texts.

    `prune` takes it in the place of the model. It spares taking it apart, proving its replay, and measuring; what a
    method itself computes is computed every time.

    source   the model, as loaded or bare
    keeps    whether hidden states are kept from one run to the next
    quality  how good the model is on a text, by `Windows.digest`
    outputs  its hidden states (N, T, H) behind block 0, 1, ... on a text, by the same, as far as memory allows
    proven   the texts, by the same, on which its blocks replay what it computes itself
    """

    source: LoadedModel | nn.Module
    keeps: bool = True
    quality: dict[str, Perplexity | Score] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    proven: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: "DenseModel | LoadedModel | nn.Module") -> "DenseModel":
        """The model itself where it is one already, else one for a single run, which keeps no hidden states."""
        return model if isinstance(model, DenseModel) else cls(model, keeps=False)

    @property
    def model(self) -> nn.Module:
        """The transformers model."""
        return self.source.model if isinstance(self.source, LoadedModel) else self.source

    @cached_property
    def parts(self) -> Anatomy:
        """Its blocks and matrices. Raises UnsupportedModel."""
        return anatomy(self.model)

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer; None of a bare model."""
        return self.source.tokenizer if isinstance(self.source, LoadedModel) else None

    @property
    def folder(self) -> Path | None:
        """Where its files lie; None of a bare model."""
        return self.source.folder if isinstance(self.source, LoadedModel) else None

    @property
    def fingerprint(self) -> str | None:
        """Digest of its files; None of a bare model."""
        return self.source.fingerprint if isinstance(self.source, LoadedModel) else None

    def outputs_on(self, windows: Windows, hidden: Tensor, blocks: int) -> list[Tensor] | None:
        """The hidden states behind each of `blocks` blocks as far as they are kept, to be read or added to; `hidden`
        (N, T, H): those at the first block's input, for their size.

        None where they are not kept: for one more text once the others' take a twentieth of the memory that is free,
        and for a text whose own would take over a fiftieth of it.
        """
        text = windows.digest()
        if not self.keeps or (
            not self.outputs.get(text) and not self._has_room(text, blocks * hidden.nbytes, hidden.device)
        ):
            return None
        return self.outputs.setdefault(text, [])

    def _has_room(self, text: str, size: int, device: torch.device) -> bool:
        stored = [output for outputs in self.outputs.values() for output in outputs]
        taken = sum(output.nbytes for output in stored)
        if text not in self.outputs and stored and taken > 0.05 * free_bytes(stored[0].device):
            return False
        return size <= 0.02 * free_bytes(device)

    def quality_on(self, windows: Windows, final: "Final | None" = None) -> Perplexity | Score:
        """How good it is on a text, measured once. Errors are those of `perplexity` and `score`."""
        text = windows.digest()
        if text not in self.quality:
            self.quality[text] = measure_quality(self.model, windows, final)
        return self.quality[text]


@dataclass(frozen=True, eq=False)
class Final:
    """The outputs (N, T, H) of a language model's last block on the windows of a text, and the model's end."""

    hidden: Tensor
    end: Ending


def measurable(model: nn.Module, windows: dict[str, Windows]) -> dict[str, Windows]:
    """Those of the texts that a model with this head can be measured on: any text for language models, labelled
    examples that ask what it answers for others.
    """
    answers = head(model)
    return {
        label: split
        for label, split in windows.items()
        if answers == ("next token" if split.labelled is None else split.labelled.head)
    }


def measure_quality(model: nn.Module, windows: Windows, final: Final | None = None) -> Perplexity | Score:
    """Perplexity on text, from its final hidden states where they are given; scores on labelled examples."""
    if windows.labelled is not None:
        return score(model, windows)
    return perplexity(model, windows) if final is None else perplexity(model, windows, **vars(final))


def quality_rows(
    dense: DenseModel,
    pruned: nn.Module,
    windows: dict[str, Windows],
    final: Mapping[tuple[str, str], Final] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables `perplexity` and `scores` for texts by their label, the dense model's first.

    final: by which model ("dense", "pruned") and label, where the final hidden states are there. Errors are those of
    `perplexity` and `score`.
    """
    final = final or {}
    rows: dict[str, list[dict[str, Any]]] = {"perplexity": [], "scores": []}
    for which in ("dense", "pruned"):
        for label, split in windows.items():
            try:
                known = final.get((which, label))
                quality = dense.quality_on(split, known) if which == "dense" else measure_quality(pruned, split, known)
            except NumericalError as error:
                raise NumericalError(f"{which} model: {error}") from error
            rows["perplexity" if split.labelled is None else "scores"].append(
                {
                    "split": label,
                    "which": which,
                    **{key: value for key, value in asdict(quality).items() if key != "pearson"},
                }
            )
    return rows
