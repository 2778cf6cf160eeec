"""A model's folder and a text file to try things on, for who has none of their own at hand."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from analysis import paths, storage
from analysis.lab.documents import documents

SMALL, STORIES = "lab/small", 400  # a model of the lab, documents of its text


@dataclass(frozen=True)
class Trial:
    """What a tutorial works on: a model (folder, lab name or hub id), a text file, and where results go."""

    model: str
    text: str
    out: str


def trial(model: str = "", text: str = "", out: str = "") -> Trial:
    """The reader's own, and for what is left empty: a small model of the lab, saved as transformers saves any, its
    stories as a text file with blank lines between, and a folder of results, all below data/runs/own_model.

    Files that are there already are left as they are. Raises ModelError or StoreError.
    """
    place = paths.runs() / "own_model"
    with storage.explained(place):
        place.mkdir(parents=True, exist_ok=True)
        return Trial(model or str(_model(place / "model")), text or str(_text(place / "notes.txt")), out or str(place))


def _model(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        from analysis.models.load import load_model
        from analysis.models.quiet import quiet

        dense = load_model(SMALL)
        assert dense.tokenizer is not None  # every decoder of the lab has one
        with quiet(), storage.placing(folder, "config.json") as fresh:
            dense.model.save_pretrained(fresh)
            dense.tokenizer.save_pretrained(fresh)
    return folder


def _text(file: Path) -> Path:
    if not file.is_file():
        stories = (story.text for story in islice(documents("stories"), STORIES))
        storage.write(file, "\n\n".join(stories) + "\n")
    return file
