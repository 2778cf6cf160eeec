"""What makes the environment: the lock holds exact versions that pyproject.toml admits, and nothing of one machine."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from analysis import paths


def pinned():
    lines = (paths.ROOT / "requirements.lock").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def wanted():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


def test_the_lock_pins_every_line_to_one_public_version():
    for requirement in pinned():
        (only,) = requirement.specifier
        assert only.operator == "==" and re.fullmatch(r"\d+(\.\w+)*", only.version), requirement
        assert requirement.url is None and not re.match(r"nvidia|cuda|triton", requirement.name), requirement
    assert {str(r.specifier) for r in pinned() if r.name == "torch"} == {"==2.13.0"}


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_the_lock_satisfies_pyproject(requirement):
    versions = [next(iter(r.specifier)).version for r in pinned() if r.name.lower() == requirement.name.lower()]
    assert versions and all(requirement.specifier.contains(version) for version in versions)


def test_the_build_backend_is_pinned_too():
    assert any(r.name == "setuptools" for r in pinned())  # the editable install is built without isolation


def test_everything_lints_first_and_ci_runs_make_test_and_what_that_leaves_out():
    lines = (paths.ROOT / "Makefile").read_text("utf-8").splitlines()
    assert {"check: lint", "test: check", "test-all: lint"} <= set(lines)
    assert "\nmake test\nmake test-slow\n" in (paths.ROOT / ".ci" / "run").read_text("utf-8")


def test_conda_gets_the_same_list():
    conda = (paths.ROOT / "environment.yml").read_text("utf-8")
    assert "-e .[dev]" in conda and "pytorch" not in conda
