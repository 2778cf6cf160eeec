"""What holds for every test: one torch thread, no progress bars, no network, results in a temporary folder.

The environment is set when this file is imported, before any test module can import torch.
"""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", ANALYSIS_PROGRESS="0", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)


def pytest_configure(config):
    """Results and caches go to one temporary folder for the whole session: xdist's workers inherit it, so that runs
    which several of them need are done once.
    """
    if not hasattr(config, "workerinput"):
        config.stash[HOME] = os.environ["ANALYSIS_HOME"] = tempfile.mkdtemp(prefix="analysis-tests-")


def pytest_unconfigure(config):
    if HOME in config.stash:
        shutil.rmtree(config.stash[HOME], ignore_errors=True)


HOME = pytest.StashKey[str]()
FEW = 2


def pytest_addoption(parser):
    parser.addoption(
        "--few", action="store_true", help=f"no long tests, and {FEW} cases of each slow one, as in `make test-slow`"
    )


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config, items):
    """Tests of one family among many are slow but for a few families; with --few, long tests and most cases of slow
    ones are left out; tests that need a GPU or the real data are skipped, with the reason, where there is none.
    """
    for item in items:
        if _beyond_quick(item):
            item.add_marker(pytest.mark.slow)
    if config.getoption("--few"):
        left = _cases_beyond_few(items) | {item for item in items if item.get_closest_marker("long")}
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            _skip(items, "gpu", "no CUDA device here")
    if not ASSETS.is_dir():
        _skip(items, "real_assets", "the real model and texts are not here (../shared/assets)")


def pytest_collection_finish():
    """What has been imported and collected stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def _cases_beyond_few(items) -> set:
    """Of every slow test of many cases, but for those marked `every`, all but `FEW`: the first, the last, and any
    others at equal distances.
    """
    cases: dict[str, list] = {}
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("every"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left = set()
    for group in cases.values():
        taken = {round(place * (len(group) - 1) / (FEW - 1)) for place in range(FEW)}
        left |= {item for number, item in enumerate(group) if number not in taken}
    return left


def _beyond_quick(item) -> bool:
    """Whether the test's module takes families of models and its parameters name one that quick tests leave out."""
    families = sys.modules.get("tests.helpers.families")
    parameters = getattr(item, "callspec", None)
    if families is None or parameters is None:
        return False
    beyond = set(families.FAMILIES) - set(families.QUICK)
    return any(isinstance(value, str) and value in beyond for value in parameters.params.values())


def _skip(items, marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of the real model and texts; only for tests marked `real_assets`."""
    return ASSETS
