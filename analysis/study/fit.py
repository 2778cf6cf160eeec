"""Whether a job fits the memory that is free, and what would: the advice of `analysis plan` and `analysis prune`."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch

from analysis import distributed, memory
from analysis.errors import AnalysisError, OutOfMemory, RecipeError, first_line, out_of_memory
from analysis.models.load import usable_device
from analysis.models.shape import ModelShape, model_shape
from analysis.pruning.checks import streaming_problems
from analysis.recipe.recipe import Recipe
from analysis.study import footprint
from analysis.study.footprint import Held
from analysis.study.forecast import LONG, Forecast, forecast, size
from analysis.study.job import Job
from analysis.study.machine import SLOW, Machine, this_machine
from analysis.study.sizes import Sizes

SURE = 0.8  # of a forecast: what is free below that is too little even if the forecast is a fifth too high


@dataclass(frozen=True)
class Change:
    """A job with one thing smaller: what to write, and the job."""

    words: str
    job: Job


def look_ahead(job: Job, say: Callable[[str], object], *, anyway: bool = False, choose: bool = False) -> Job:
    """Say in one line what a job will take if that is long, and raise OutOfMemory, with what would fit, for one that
    cannot fit here; anyway: say that instead. The machine is timed only for jobs that may be long. Returns the job;
    choose: with its models streamed where only so they fit (`where_it_fits`), which is said.

    A model that cannot be described, or reads less at once than a window, is left to those who load it, and say what is
    wrong; where the forecast itself fails, one line says so and the run goes on.
    """
    try:
        shape = model_shape(job.model)
        if shape.context is not None and job.length > shape.context:
            return job
        device = usable_device(job.device)
        kind, room = device.partition(":")[0], free_memory(device)
        expected = forecast(job, shape, kind, SLOW, room=room)
        if choose and (
            other := where_it_fits(job, expected, room, lambda job: forecast(job, shape, kind, SLOW, room=room))
        ):
            say(f"forecast: {' and '.join(lacking(expected, room))}; the models are streamed (--placement)")
            job, expected = other
    except AnalysisError:
        return job
    except Exception as error:  # a forecast must not keep a run from beginning
        say(f"no forecast: {type(error).__name__}: {first_line(error)}")
        return job
    if (expected.seconds or 0) >= LONG or hopeless(expected, room):
        machine = this_machine(device)
        expected = forecast(job, shape, kind, machine, room=room)
        if (expected.seconds or 0) >= LONG:
            say(expected.line())
    if not hopeless(expected, room):
        if short := lacking(expected, room):
            say(f"forecast: it may run out of memory: {' and '.join(short)}")
        return job
    told = f"{' and '.join(lacking(expected, room))}; {advice(job, shape, expected, room)}"
    if not anyway:
        raise OutOfMemory(f"forecast: {job} would need {told}. Where the forecast errs, --anyway begins all the same")
    say(f"forecast: it would need {told}; begun --anyway")
    return job


def where_it_fits(
    job: Job, expected: Forecast, room: Held, again: Callable[[Job], Forecast]
) -> tuple[Job, Forecast] | None:
    """The job with its models streamed and its forecast (`again`), where the room does not hold them whole and would
    hold them so; None where they fit, do not fit so either, or the recipe needs them whole.
    """
    if not lacking(expected, room) or job.placement == "streamed" or streaming_problems(job.recipe):
        return None
    streamed = replace(job, placement="streamed")
    other = again(streamed)
    return None if lacking(other, room) else (streamed, other)


@contextmanager
def memory_told(job: Job) -> Iterator[None]:
    """Where the body runs out of memory, raise one OutOfMemory with the forecast, what was free when it began, and what
    would fit.
    """
    room = None
    with suppress(AnalysisError):
        room = free_memory(usable_device(job.device))
    try:
        yield
    except Exception as error:
        told = out_of_memory(error)
        if told is None or told is error:
            raise
        traceback.clear_frames(error.__traceback__)  # lets go of what the failed computation held
        raise OutOfMemory(_numbers(job, first_line(told), room)) from error


def _numbers(job: Job, told: str, room: Held | None) -> str:
    """The message, with numbers where they can be had."""
    words = told.partition(";")[0]
    with suppress(Exception):  # not for the sake of numbers another error
        shape, kind = model_shape(job.model), usable_device(job.device).partition(":")[0]
        expected = forecast(job, shape, kind, room=room)
        words += f": the forecast is {size(expected.peak.host if kind == 'cpu' else expected.peak.device)}"
        if room is not None:
            words += f", {size(room.host if kind == 'cpu' else room.device)} were free at the beginning"
            words += f"; {advice(job, shape, expected, _less(room, expected))}"
    return (
        f"{words}. Finished work is kept: the same command goes on from there once there is more memory; with another"
        " recipe, dtype or text it is another run"
    )


def _less(room: Held, expected: Forecast) -> Held:
    """What was free, and no more than nine tenths of a forecast that did not fit."""
    return Held(min(room.device, int(0.9 * expected.peak.device)), min(room.host, int(0.9 * expected.peak.host)))


def free_memory(device: str) -> Held:
    """Bytes that a run could take on a device ("cpu", "cuda:1", ...) and on this host, its own process included; of
    several ranks on this host each its part.
    """
    host = memory.available() // distributed.neighbours() + memory.resident()
    if device.startswith("cuda"):
        own = torch.cuda.memory_allocated(device) if torch.cuda.is_initialized() else 0
        return Held(torch.cuda.mem_get_info(device)[0] + own, host)
    return Held(host if device.startswith("mps") else 0, host)


def lacking(expected: Forecast, room: Held) -> list[str]:
    """What a forecast asks beyond the room, one clause a side; empty where it fits."""
    sides = {"device": "the device", "host": "this process"} if expected.kind != "cpu" else {"host": "this process"}
    return [
        f"{size(getattr(expected.peak, side))} for {named} (in the stage {expected.fullest(side).name}), of which"
        f" {size(getattr(room, side))} are free"
        for side, named in sides.items()
        if getattr(expected.peak, side) > getattr(room, side)
    ]


def hopeless(expected: Forecast, room: Held) -> bool:
    """Whether it would not fit even if the forecast were a fifth too high."""
    return SURE * expected.peak.host > room.host or (
        expected.kind != "cpu" and SURE * expected.peak.device > room.device
    )


def advice(job: Job, shape: ModelShape, expected: Forecast, room: Held, machine: Machine | None = None) -> str:
    """What would fit the room: every single change that does, else the fewest together, mildest first."""

    base = machine.interpreter if machine is not None else footprint.INTERPRETER

    def needs(change: Change) -> Held:
        kind = "cpu" if change.job.device == "cpu" else expected.kind
        return footprint.peak(footprint.stages(Sizes(change.job, shape, kind), base, room, True).values())

    def fits(change: Change) -> bool:
        held = needs(change)
        return held.device <= room.device and held.host <= room.host

    def told(change: Change) -> str:
        held = needs(change)
        return size(held.device or held.host)

    start = Change("", job)
    alone = [change for step in STEPS if (change := next(filter(fits, step(start)), None))]
    if alone:
        return "each of these alone would fit: " + "; ".join(f"{one.words} ({told(one)})" for one in alone)
    current, words = start, []
    for step in STEPS:
        changes = list(step(current))
        if changes:
            current = next(filter(fits, changes), changes[-1])
            words.append(current.words)
            if fits(current):
                return f"this would fit: {', '.join(words)}, together ({told(current)})"
    return "nor would any smaller form of it: take a machine or device with more memory, or a smaller model"


# --- changes, each kind from the mildest on ---------------------------------------------------------------------------


def _placement(change: Change) -> Iterator[Change]:
    if change.job.placement != "streamed" and not streaming_problems(change.job.recipe):
        yield replace(change, words="--placement streamed", job=replace(change.job, placement="streamed"))


def _dtype(change: Change) -> Iterator[Change]:
    if change.job.dtype in (None, "float32"):
        yield replace(change, words="--dtype bfloat16", job=replace(change.job, dtype="bfloat16"))


def _batch(change: Change) -> Iterator[Change]:
    batch = change.job.recipe.solver.batch
    while batch > 1:
        batch //= 2
        yield from _with_recipe(change, f"batch={batch} in the recipe", {"solver": {"batch": batch}})


def _unit(change: Change) -> Iterator[Change]:
    unit = change.job.recipe.unit
    if unit.name == "model" or unit.width > 1:
        yield from _with_recipe(change, "single blocks as units", {"unit": {"name": "block", "width": 1, "overlap": 0}})
    if unit.name in ("model", "block"):
        smaller = {"name": "sub-block", "width": 1, "overlap": 0}
        yield from _with_recipe(change, "unit=sub-block in the recipe", {"unit": smaller})


def _with_recipe(change: Change, words: str, parts: dict[str, dict]) -> Iterator[Change]:
    """The change with parts of the recipe replaced, where it has such options."""
    recipe: Recipe = change.job.recipe
    try:
        made = replace(recipe, **{name: replace(getattr(recipe, name), **values) for name, values in parts.items()})
    except RecipeError:
        return
    yield replace(change, words=words, job=replace(change.job, recipe=made))


def _windows(change: Change) -> Iterator[Change]:
    job = change.job
    other = job.held_out_samples or job.samples
    samples = job.samples
    while samples > 2:
        samples //= 2
        fewer = min(other, samples)
        words = f"--samples {samples}" + (f" --held-out-samples {fewer}" if job.held_out_samples else "")
        yield replace(change, words=words, job=replace(job, samples=samples, held_out_samples=fewer))


def _on_host(change: Change) -> Iterator[Change]:
    if change.job.device != "cpu":
        yield replace(change, words="--device cpu", job=replace(change.job, device="cpu"))


STEPS = (_placement, _dtype, _batch, _unit, _windows, _on_host)
"""Kinds of changes, those that cost the least first."""
