"""`analysis plan`: what a run of `analysis prune` would take in time, memory and disk, counted and not run.

Of the model only config.json is read, so a model that fits no machine here can be planned on a laptop.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import paths, storage
from analysis.commands.arguments import Parser, add_device, add_verb
from analysis.commands.common import Problems, Report, say, table
from analysis.commands.out_folder import check_room
from analysis.commands.prune import add_job, flag, job_values
from analysis.errors import AnalysisError, OutOfMemory, StoreError, UsageError
from analysis.pruning.checks import save_problem, shape_misfits
from analysis.study.job import Job, job_problems

if TYPE_CHECKING:
    from analysis.models.shape import ModelShape
    from analysis.study.footprint import Held
    from analysis.study.forecast import Forecast
    from analysis.study.machine import Machine

TEXT = "lab:stories"  # stands for a text that is not named: what it says costs nothing
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
PLENTY = 2**62  # bytes, where nothing is known of a limit


def add(verbs) -> None:
    """The verb and its arguments."""
    verb: Parser = add_verb(
        verbs,
        "plan",
        run,
        "forecast the seconds, memory and disk of a run of `analysis prune`, without running it",
        '  analysis plan ./my-llama --recipe "wanda-50% BR+GP" --samples 128 --length 1024\n  analysis plan'
        ' meta-llama/Llama-2-7b-hf --recipe "wanda-50% BR" --length 2048 --device cuda --device-memory 24GB\n'
        "  analysis plan --calibrate h100.json --device cuda    (on the machine with that card)\n  analysis plan"
        ' ./my-llama --recipe "wanda-50% BR" --length 2048 --like h100.json    (anywhere)',
        "The arguments are those of `analysis prune`; texts need not be named. Of the model only config.json is read"
        " (or fetched).\nSeconds come from a timing of this machine (a second, kept in the cache) or another (--like).",
    )
    verb.add_argument("model", nargs="?", metavar="MODEL", help="as in `analysis prune`; its weights need not be there")
    add_device(verb)
    add_job(verb, required=False)
    verb.add_argument("--out", type=paths.expanded, metavar="DIR", help="its disk must have room for the results")
    verb.add_argument(
        "--calibrate",
        type=paths.expanded,
        metavar="FILE",
        help="time this machine, now, and write its rates to FILE (and the cache); needs no model",
    )
    verb.add_argument(
        "--like", type=paths.expanded, metavar="FILE", help="forecast for the machine that FILE was written on"
    )
    verb.add_argument(
        "--device-memory", type=amount, metavar="SIZE", help="memory of the device, such as 24GB; default what is free"
    )
    verb.add_argument(
        "--host-memory", type=amount, metavar="SIZE", help="memory of the host, such as 64GiB; default what is free"
    )


def amount(text: str) -> int:
    """Bytes: a number with a unit, such as 24GB or 512MiB. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?I?B)\s*", text.upper())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"size {text!r}: give a number and {', '.join(UNITS)}, such as 24GB")
    return int(float(match[1]) * UNITS[match[2]])


def run(args: argparse.Namespace) -> Report:
    """The verb. Raises: AnalysisError; a job that cannot fit is the report's failure."""
    if args.calibrate is not None:
        timed = _calibrated(args)
        if args.model is None:
            return Report(_rates(timed, args.calibrate), timed.to_dict())
    job = read_job(args)
    from analysis.models.shape import model_shape
    from analysis.study.fit import advice, hopeless, lacking, where_it_fits
    from analysis.study.forecast import forecast

    shape = model_shape(job.model)
    kind, machine, room = _where(args)
    if shape.context is not None and job.length > shape.context:
        raise UsageError(f"--length {job.length}: {job.model} reads at most {shape.context} tokens at once")
    if problems := shape_misfits(job.recipe, shape, kind):
        raise UsageError(f"recipe {job.recipe}: " + "; ".join(problems))
    expected = forecast(job, shape, kind, machine, room=room)
    if args.placement == "auto":
        other = where_it_fits(job, expected, room, lambda job: forecast(job, shape, kind, machine, room=room))
        job, expected = other or (job, expected)
    short = lacking(expected, room)
    told = advice(job, shape, expected, room, machine) if short else ""
    document = {
        "job": job.to_dict(),
        "model": {"parameters": shape.parameters, "blocks": len(shape.blocks), "prunable": shape.weights},
        "machine": machine.device if machine else kind,
        "forecast": expected.to_dict(),
        "free": {side: value for side, value in vars(room).items() if value < PLENTY},
        "fits": not short,
        "advice": told,
    }
    failure: AnalysisError | None = None
    if hopeless(expected, room):
        failure = OutOfMemory(f"plan: it would need {' and '.join(short)}")
    elif args.out is not None:
        try:
            check_room(args.out, expected.disk)
        except StoreError as error:
            failure = error
    return Report(_text(job, shape, expected, room, machine, short, told), document, failure)


def read_job(args: argparse.Namespace) -> Job:
    """The job that the arguments ask for; texts that are not named are of the lab. Raises what is wrong."""
    problems = Problems()
    if args.model is None:
        problems.add("plan: name a MODEL (or time this machine alone, with --calibrate FILE)")
    if args.length is None:
        problems.add("--length: give the tokens of a window")
    args.calibration = args.calibration or TEXT
    args.held_out = args.held_out or [f"held-out={TEXT}"]
    if problems.errors:
        problems.raise_any()
    values = job_values(args, problems)
    problems.errors += job_problems(values, flag)
    if values["recipe"] is not None and (problem := save_problem(values["recipe"])):
        problems.add(f"--recipe: {problem}")
    problems.raise_any()
    return Job(**values)


def _calibrated(args: argparse.Namespace) -> "Machine":
    import torch

    from analysis.models.load import usable_device
    from analysis.study.machine import calibrate, check_target, keep, write_machine

    check_target(args.calibrate)
    device = usable_device(args.device)
    machine = calibrate(torch.device(device))
    keep(machine, device)
    with storage.explained(args.calibrate):
        write_machine(args.calibrate, machine)
    return machine


def _where(args: argparse.Namespace) -> "tuple[str, Machine | None, Held]":
    """The kind of device that is planned for, its machine's rates where they are known, and the memory there."""
    from analysis.models.load import usable_device
    from analysis.study.fit import free_memory
    from analysis.study.footprint import Held
    from analysis.study.machine import read_machine, this_machine

    machine: Machine | None = None
    if args.like is not None:
        machine = read_machine(args.like)
        kind, room = machine.kind, Held(machine.device_memory, machine.host_memory)
        if args.device != "auto" and args.device.partition(":")[0] != kind:
            raise UsageError(
                f"--like {args.like} is of {machine.device}, --device {args.device} is another; leave one out"
            )
    else:
        try:
            device = usable_device(args.device)
        except UsageError:
            if args.device.partition(":")[0] not in ("cuda", "mps"):
                raise
            say(f"no {args.device} here: memory is forecast, seconds need a timing of such a machine (--like FILE)")
            kind, room = args.device.partition(":")[0], Held(PLENTY, PLENTY)
        else:
            kind, room, machine = device.partition(":")[0], free_memory(device), this_machine(device)
    given = {"device": args.device_memory, "host": args.host_memory}
    return kind, machine, Held(**vars(room) | {side: value for side, value in given.items() if value is not None})


def _text(
    job: Job,
    shape: "ModelShape",
    expected: "Forecast",
    room: "Held",
    machine: "Machine | None",
    short: list[str],
    told: str,
) -> str:
    from analysis.study.forecast import duration, size

    device, known = expected.kind != "cpu", expected.seconds is not None
    header = ["stage", *["seconds"] * known, "TFLOP", "tokens read", *["device memory"] * device, "host memory"]
    rows = [
        [
            stage.name,
            *([stage.seconds] if stage.seconds is not None else []),
            stage.operations / 1e12,
            stage.tokens,
            *([size(stage.held.device)] if device else []),
            size(stage.held.host),
        ]
        for stage in expected.stages
    ]
    free = {"device": "device memory", "host": "host memory"} if device else {"host": "memory"}
    needs = [
        f"{named:14} {size(getattr(expected.peak, side))}"
        + (f" of {size(getattr(room, side))}" if getattr(room, side) < PLENTY else "")
        for side, named in free.items()
    ]
    spilled = f", and {size(expected.spilled)} of temporary files" if expected.spilled else ""
    lines = [
        f"{job.recipe} on {job.model}: {shape.parameters:,} parameters, {len(shape.blocks)} blocks, in {expected.dtype}"
        f" on {machine.device if machine else expected.kind}"
        + (f", {machine.threads} threads" if machine and not device else ""),
        "",
        table(header, rows),
        "",
        *([f"{'time':14} {duration(expected.seconds)}"] if expected.seconds is not None else []),
        *needs,
        f"{'placement':14} {job.placement}",
        f"{'disk':14} {size(expected.disk)}{spilled}",
        f"{'tokens read':14} {expected.tokens:,}",
        *([f"{'not counted':14} {'; '.join(expected.uncounted)}"] if expected.uncounted else []),
        "",
        "it fits" if not short else f"it does not fit: {'; '.join(short)}\n{told}",
    ]
    return "\n".join(lines)


def _rates(machine: "Machine", file: Path) -> str:
    rows = [(dtype, width, f"{rate / 1e9:,.1f}") for dtype, curve in machine.products.items() for width, rate in curve]
    return "\n".join(
        [
            f"{machine.device}, {machine.threads} threads: {machine.passes / 1e9:,.1f} GB/s passes,"
            f" {1e6 * machine.call:,.1f} us a call; written to {file}",
            "",
            table(("products", "width", "GFLOP/s"), rows),
        ]
    )
