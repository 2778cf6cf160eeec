"""A tiny model with a tokenizer of words, in a folder, and right calls of `analysis prune` on it."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.small import small_llama

BLOCKS = 4
WORDS = [
    "a",
    "an",
    "the",
    "red",
    "blue",
    "old",
    "new",
    "small",
    "big",
    "cat",
    "dog",
    "bird",
    "man",
    "town",
    "hill",
    "river",
    "bread",
    "song",
    "sees",
    "has",
    "likes",
    "wants",
    "finds",
    "and",
    "but",
    "then",
]


def build_model(folder: Path, documents: list[str]) -> None:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(documents, trainers.WordLevelTrainer(special_tokens=["<unk>", "<eos>"]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    small_llama(blocks=BLOCKS).save_pretrained(folder)


def arguments(world: Path, out: Path | str, **changes) -> list[str]:
    """A right `analysis prune` call; `changes` replace arguments by name, None leaves one out, a list repeats it."""
    given = {
        "recipe": "wanda-50% LR",
        "calibration": f"{world}/text.txt[:70%]",
        "held-out": f"{world}/text.txt[70%:]",
        "samples": 8,
        "length": 16,
        "seed": 0,
        "out": out,
    } | {name.replace("_", "-"): value for name, value in changes.items() if name != "model"}
    argv = ["prune", str(changes.get("model", world / "model"))]
    for name, value in given.items():
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            argv += [f"--{name}", str(each)] if each != "" else [f"--{name}"]
    return argv
