"""How good the dense and the pruned model are on each text: perplexity of language models, scores of models that answer labelled examples."""

from dataclasses import asdict

from torch import nn

from analysis.measure.perplexity import Perplexity, perplexity
from analysis.measure.scores import Score, score
from analysis.models.heads import head
from analysis.text.windows import Windows

Known = dict[str, Perplexity | Score]


def measurable(model: nn.Module, windows: dict[str, Windows]) -> dict[str, Windows]:
    """Those of the texts that a model with this head can be measured on: any text for language models, labelled examples that ask what it answers for others."""
    answered = head(model)
    return {label: split for label, split in windows.items() if answered == ("next token" if split.labelled is None else split.labelled.head)}


def quality_rows(dense: nn.Module, pruned: nn.Module, windows: dict[str, Windows], known: Known) -> dict[str, list[dict]]:
    """Rows of the tables `perplexity` and `scores` for texts by their label, the dense model's first.

    known: what the dense model was found to be by `Windows.digest`, looked up here and added to. Errors are those of `perplexity` and `score`.
    """
    rows: dict[str, list[dict]] = {"perplexity": [], "scores": []}
    for which, model in (("dense", dense), ("pruned", pruned)):
        for label, split in windows.items():
            table, measure = ("perplexity", perplexity) if split.labelled is None else ("scores", score)
            key = split.digest()
            result = known[key] if which == "dense" and key in known else measure(model, split)
            if which == "dense":
                known[key] = result
            rows[table].append({"split": label, "which": which, **asdict(result)})
    return rows
