"""`import analysis`: the public names, each imported when first used, and no torch before that."""

import subprocess
import sys

import pytest

import analysis
from analysis import paths


def in_a_fresh_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("name", analysis.__all__)
def test_every_public_name_is_there_and_comes_from_its_own_module(name):
    value = getattr(analysis, name)
    assert value.__module__ == analysis._HOMES[name]
    assert value.__doc__, f"{name} has no docstring"


def test_dir_lists_the_public_names_before_they_are_used():
    assert in_a_fresh_python("import analysis; print(set(analysis.__all__) <= set(dir(analysis)))") == "True"


@pytest.mark.slow
def test_import_loads_no_torch_and_recipe_needs_none():
    code = (
        "import sys, analysis; analysis.Recipe.parse('wanda-50% LR'); print('torch' in sys.modules, 'transformers' in"
        " sys.modules)"
    )
    assert in_a_fresh_python(code) == "False False"


def test_prune_is_the_verb_whatever_else_was_imported():
    import analysis.commands.prune
    import analysis.pruning.loop

    assert analysis.prune is analysis.pruning.loop.prune


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="no attribute 'pruen'.*load_model"):
        analysis.pruen
    with pytest.raises(ImportError):
        from analysis import nothing_like_this  # noqa: F401
