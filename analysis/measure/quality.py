"""How good the dense and the pruned model are on each text: perplexity of language models, scores of models that answer
labelled examples.
"""

from dataclasses import asdict, dataclass, field

from torch import Tensor, nn

from analysis.measure.perplexity import Perplexity, perplexity
from analysis.measure.scores import Score, score
from analysis.models.task_heads import head
from analysis.streams.streams import free_bytes
from analysis.windows import Windows


@dataclass(eq=False)
class Known:
    """What earlier runs found out about one dense model, by `Windows.digest`: how good it is, and its hidden states
    behind each block (N, T, H).
    """

    quality: dict[str, Perplexity | Score] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def outputs_on(self, text: str) -> list[Tensor] | None:
        """The hidden states on one text, to be read or added to; None for one more text once the others' take a
        twentieth of the memory that is free.
        """
        held = [output for outputs in self.outputs.values() for output in outputs]
        if (
            text not in self.outputs
            and held
            and sum(output.nbytes for output in held) > 0.05 * free_bytes(held[0].device)
        ):
            return None
        return self.outputs.setdefault(text, [])


def measurable(model: nn.Module, windows: dict[str, Windows]) -> dict[str, Windows]:
    """Those of the texts that a model with this head can be measured on: any text for language models, labelled
    examples that ask what it answers for others.
    """
    answered = head(model)
    return {
        label: split
        for label, split in windows.items()
        if answered == ("next token" if split.labelled is None else split.labelled.head)
    }


def quality_rows(
    dense: nn.Module, pruned: nn.Module, windows: dict[str, Windows], known: Known
) -> dict[str, list[dict]]:
    """Rows of the tables `perplexity` and `scores` for texts by their label, the dense model's first.

    known: looked up here and added to. Errors are those of `perplexity` and `score`.
    """
    rows: dict[str, list[dict]] = {"perplexity": [], "scores": []}
    for which, model in (("dense", dense), ("pruned", pruned)):
        for label, split in windows.items():
            table, measure = ("perplexity", perplexity) if split.labelled is None else ("scores", score)
            key = split.digest()
            result = known.quality[key] if which == "dense" and key in known.quality else measure(model, split)
            if which == "dense":
                known.quality[key] = result
            rows[table].append({"split": label, "which": which, **asdict(result)})
    return rows
