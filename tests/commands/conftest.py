"""A tiny model, a text and questions for every verb, and one finished folder of `analysis prune`."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.cli import main
from tests.helpers.world import WORDS, arguments, build_model


@pytest.fixture(scope="package")
def small_world(tmp_path_factory) -> Path:
    """A folder with `model`, `text.txt` and the tasks `tasks.jsonl` and `more.jsonl`."""
    folder, draw = tmp_path_factory.mktemp("world"), random.Random(0)
    documents = [" ".join(draw.choices(WORDS, k=60)) for _ in range(60)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    for name, choices in {"tasks": ["a cat", "the old dog"], "more": ["a", "the big river"]}.items():
        rows = [{"query": f"the {word} sees", "choices": choices, "gold": n % 2} for n, word in enumerate(WORDS)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_model(folder / "model", documents)
    return folder


@pytest.fixture(scope="package")
def pruned(small_world, tmp_path_factory) -> Path:
    """The folder of one right call without tasks; not to be changed."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    assert main(arguments(small_world, out)) == 0
    return out


@pytest.fixture
def copied(pruned, tmp_path) -> Callable[[], Path]:
    """Gives copies of it, which may be changed."""

    def copy() -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return Path(shutil.copytree(pruned, tmp_path / "copy"))

    return copy
