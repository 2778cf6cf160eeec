"""Runs of the study's store made while a reader looks on: forecast, begun, watched block by block, stopped, read back.
No torch here; the worker has it.
"""

import json
import logging
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import paths, storage
from analysis.errors import AnalysisError
from analysis.live.choices import RecipeChoice
from analysis.live.worker import worker
from analysis.study.job import Job
from analysis.study.pool import threads
from analysis.study.results import Study, gather
from analysis.study.run import work
from analysis.study.store import RunFolder, list_runs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """What a run will take: seconds on this machine when idle, bytes of memory, tokens read; blocks: of its model."""

    seconds: float
    memory: int
    tokens: int
    blocks: int


def expected(choice: RecipeChoice) -> Expected:
    """The forecast for this machine, from the worker, which has torch. Raises AnalysisError."""
    said = _forecast(choice.job())
    return Expected(said["seconds"], said["host_memory"], said["tokens"], said["blocks"])


@lru_cache(256)
def _forecast(job: Job) -> dict[str, Any]:
    file = paths.cache() / "forecasts" / f"{job.digest()[:32]}.json"
    if not file.is_file():
        worker().ask(write_forecast, (job, file))
    return json.loads(file.read_text("utf-8"))


def write_forecast(asked: tuple[Job, Path]) -> None:
    """Done by the worker: the forecast of a job as a file."""
    from analysis.models.shape import model_shape
    from analysis.study.forecast import forecast
    from analysis.study.machine import this_machine

    job, file = asked
    shape = model_shape(job.model)
    said = forecast(job, shape, "cpu", this_machine(), saves=False).to_dict() | {"blocks": len(shape.blocks)}
    storage.write(file, json.dumps(said))


def begin(choice: RecipeChoice) -> None:
    """Carry the run out in the worker, and wait; nothing is done for one that is stored. Raises what the run raises,
    `worker.Stopped` where it was stopped: what was finished is kept.
    """
    job = choice.job()
    folder = RunFolder(job.digest())
    if folder.read() is None:
        worker().ask(work, (job, folder, threads(job.model)))


def stop() -> None:
    """End the run under way."""
    worker().stop()


def finished(choice: RecipeChoice) -> Study | None:
    """The run as a study, None where the store has none."""
    job = choice.job()
    folder = RunFolder(job.digest())
    run = folder.read()
    return None if run is None else gather({job: (folder.name, run)})


def so_far(choice: RecipeChoice) -> pd.DataFrame:
    """The block errors that a run under way has left in its checkpoint: [block, split, kind, relative_error], none
    before its first unit is done.
    """
    folder = RunFolder(choice.job().digest()).checkpoint
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("visit-*.safetensors")):
        rows += _rows(file)
    return pd.DataFrame(rows, columns=["block", "split", "kind", "relative_error"])


def _rows(file: Path) -> list[dict[str, Any]]:
    """The block errors in the header of one visit's file."""
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            told = storage.parse_json(opened.read(size))
        return storage.parse_json(told["__metadata__"]["rows"]).get("blocks", [])
    except (OSError, ValueError, KeyError, struct.error):  # replaced or removed meanwhile
        return []


def stored_blocks() -> pd.DataFrame:
    """The block errors of every complete run of the store, with its job in front."""
    found = {}
    for info in list_runs():
        if info.state != "complete":
            continue
        try:
            job = Job(**info.job)
            run = RunFolder(str(job.digest())).read()
        except (AnalysisError, TypeError) as error:
            log.warning("run %s is left out: %s", info.run, error)
            continue
        if run is not None and len(run.tables["blocks"]):
            found[job] = (info.run, run)
    return gather(found).tables["blocks"] if found else pd.DataFrame()
