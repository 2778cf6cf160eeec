"""What dense and pruned models say: text written from one prompt, facts asked, and the model's own text beside corpora,
token by token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.errors import ModelError, UsageError
from analysis.live.answers import Ground, answer, inputs, pruned
from analysis.study.job import Contents
from analysis.text.sources import parse_source, source_fingerprint
from analysis.text.tasks import task_fingerprint, task_items

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from analysis.models.load import LoadedModel

FACTS = ("lab:facts-easy", "lab:facts-hard")
MOST = 3  # pruned models beside the dense one


def _models(ground: Ground, recipes: tuple[str, ...]) -> "Iterator[tuple[str, nn.Module, LoadedModel]]":
    """The dense model and each pruned one by their names. Raises UsageError for too many."""
    if len(recipes) > MOST:
        raise UsageError(
            f"texts: {len(recipes)} pruned models were asked for; at most {MOST} stand beside the dense one"
        )
    dense = inputs(ground.job(recipes[0] if recipes else "magnitude-0% LR")).dense
    yield "dense", dense.model, dense
    for recipe in recipes:
        yield recipe, pruned(ground.job(recipe)).model, dense


@dataclass(frozen=True)
class Written:
    """A prompt and how each model goes on: [model, place, token, given, nats, dense_nats, dense_token].

    Every model draws with the same noise, so what differs is the models' doing. nats: -log p of the token under the
    model itself; dense_nats, dense_token: the same under the dense model, and the token it finds likeliest, after the
    same text. given: of the prompt. The first token has no loss.
    """

    ground: Ground
    recipes: tuple[str, ...]
    prompt: str
    tokens: int = 48
    temperature: float = 0.0
    seed: int = 0

    def identity(self) -> Any:
        return [self.ground.identity(self.recipes), self.recipes, self.prompt, self.tokens, self.temperature, self.seed]

    def table(self) -> pd.DataFrame:
        from analysis.text.continuation import go_on, log_probabilities

        if not self.prompt.strip():
            raise UsageError("text: the prompt is empty; give a few words")
        rows: list[dict[str, Any]] = []
        given = dense = None
        for name, model, loaded in _models(self.ground, self.recipes):
            given = begin(loaded, self.prompt) if given is None else given
            dense = dense or model
            ids = go_on(model, given, self.tokens, self.temperature, self.seed, reader(loaded).eos_token_id)
            own, reference = log_probabilities(model, ids), log_probabilities(dense, ids)
            for place in range(len(ids)):
                token, known = int(ids[place]), place > 0
                best = int(reference[place - 1].argmax()) if known else token
                rows.append(
                    {
                        "model": name,
                        "place": place,
                        "token": reader(loaded).decode([token]),
                        "given": place < len(given),
                        "nats": -float(own[place - 1][token]) if known else float("nan"),
                        "dense_nats": -float(reference[place - 1][token]) if known else float("nan"),
                        "dense_token": reader(loaded).decode([best]),
                        "agrees": best == token,
                    }
                )
        return pd.DataFrame(rows)


def reader(loaded: "LoadedModel") -> "PreTrainedTokenizerBase":
    """A model's tokenizer. Raises ModelError where it has none."""
    if loaded.tokenizer is None:
        raise ModelError(f"model {loaded.name}: has no tokenizer; put its tokenizer files in the model's folder")
    return loaded.tokenizer


def begin(loaded: "LoadedModel", prompt: str) -> "Tensor":
    """The token ids (T,) of a prompt behind a token for the beginning of text. Raises ModelError, UsageError."""
    import torch

    from analysis.models.context import usable_context

    tokenizer, context = reader(loaded), usable_context(loaded.model)
    ids = tokenizer(prompt)["input_ids"]
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is not None and ids[:1] != [first]:
        ids = [first, *ids]
    if context is not None and len(ids) >= context:
        raise UsageError(f"text: the prompt has {len(ids)} tokens, the model's context {context}; give a shorter one")
    return torch.tensor(ids)


def writer(ground: Ground, recipes: tuple[str, ...], tokens: int = 48) -> Callable[..., pd.DataFrame]:
    """What answers (prompt=, temperature=, seed=) with the table of `Written` for these models."""

    def write(prompt: str, temperature: float = 0.0, seed: int = 0) -> pd.DataFrame:
        return answer(Written(ground, recipes, prompt, tokens, temperature, seed))

    return write


@dataclass(frozen=True)
class Facts:
    """Questions about facts of the lab's world, and who is right: [model, task, question, gold, said, right]."""

    ground: Ground
    recipes: tuple[str, ...]
    documents: int = 12

    def identity(self) -> Any:
        tasks = [[name, task_fingerprint(name)] for name in FACTS]
        return [self.ground.identity(self.recipes), self.recipes, self.documents, tasks]

    def table(self) -> pd.DataFrame:
        from analysis.measure.zero_shot import answers

        items = {task: task_items(task, documents=self.documents) for task in FACTS}
        rows = []
        for name, model, loaded in _models(self.ground, self.recipes):
            for task, answered in answers(model, loaded.tokenizer, FACTS, documents=self.documents).items():
                for item, one in zip(items[task], answered, strict=True):
                    best = max(range(len(item.choices)), key=one.log_likelihoods.__getitem__)
                    rows.append(
                        {
                            "model": name,
                            "task": task,
                            "question": item.query,
                            "gold": item.choices[item.gold],
                            "said": item.choices[best],
                            "right": one.right,
                        }
                    )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class OwnText:
    """Windows of some sources as the dense model sees them: [source, window, place, token, nats]; `self` is what it
    writes itself. Corpora of the lab are read where they are held out, the windows of one seed.
    """

    model: str
    sources: tuple[str, ...]
    windows: int = 2
    length: int = 64
    seed: int = 0

    def identity(self) -> Any:
        model = Contents().model(self.model)
        sources = [source_fingerprint(parse_source(source).half("held-out"), model) for source in self.sources]
        return [model, sources, list(self.sources), self.windows, self.length, self.seed]

    def table(self) -> pd.DataFrame:
        from analysis.text.continuation import log_probabilities

        dense, windows = self._windows()
        rows = []
        for source, drawn in windows.items():
            for number, ids in enumerate(drawn.ids):
                log_p = log_probabilities(dense.model, ids)
                for place in range(1, len(ids)):
                    token = int(ids[place])
                    said = {"token": reader(dense).decode([token]), "nats": -float(log_p[place - 1][token])}
                    rows.append({"source": source, "window": number, "place": place} | said)
        return pd.DataFrame(rows)

    def _windows(self) -> Any:
        from analysis.models.load import load_model
        from analysis.text.load import load_tokens

        dense = load_model(self.model)
        how: dict[str, Any] = {"samples": self.windows, "length": self.length, "seed": self.seed, "split": "held-out"}
        return dense, {source: load_tokens(source, dense, **how) for source in self.sources}


@dataclass(frozen=True)
class Distances(OwnText):
    """How far each source is from the first one, block by block: [source, block, distance], as in the table `texts`
    (`measure.second_moments`); `windows` should be many.
    """

    def table(self) -> pd.DataFrame:
        from analysis.measure.second_moments import second_moment
        from analysis.streams.moments import distance

        dense, windows = self._windows()
        moments = {source: second_moment(dense, drawn) for source, drawn in windows.items()}
        reference = moments[self.sources[0]]
        return pd.DataFrame(
            [
                {"source": source, "block": block, "distance": distance(mine, other)}
                for source, of in moments.items()
                for block, (mine, other) in enumerate(zip(of, reference, strict=True))
            ]
        )
