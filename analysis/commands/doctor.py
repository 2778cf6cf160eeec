"""`analysis doctor`: what this installation and this machine are like, and a cure for what is not well."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from analysis import memory, paths
from analysis.commands.arguments import add_verb
from analysis.commands.common import Report, say
from analysis.errors import AnalysisError, SuiteError

WELL, NOTE, ILL = "well", "note", "ill"
DISTRIBUTION = "pruning-analysis"
LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30  # bytes that the lab's notebooks want
LEAST_SPEED = 2e9  # operations a second below which nothing here is a matter of minutes


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is "well", worth a "note", or "ill", and then what to do about it."""

    what: str
    state: str
    found: str
    cure: str = ""


def add(verbs) -> None:
    """The verb and its arguments."""
    add_verb(
        verbs,
        "doctor",
        doctor,
        "look at this installation and this machine, with a cure for what is not well",
        "  analysis doctor\n  analysis doctor --json",
        "exit code 0 where nothing is ill (notes are no illness), 7 where something is",
    )


def doctor(args: argparse.Namespace) -> Report:
    """Every check, also after one that fails; `failure` is set where one is ill. Nothing is downloaded."""
    say("looking (a few seconds, the first time)")
    found = [one for check in CHECKS for one in _looked(check)]
    ill = [one for one in found if one.state == ILL]
    lines = []
    for one in found:
        lines.append(f"{one.state:<5} {one.what:<9} {one.found}")
        if one.cure:
            lines.append(f"{'':<15} -> {one.cure}")
    lines += ["", f"{len(ill)} ill, {sum(one.state == NOTE for one in found)} notes, of {len(found)}"]
    failure = None
    if ill:
        failure = SuiteError(f"doctor: {', '.join(one.what for one in ill)} ill; the cure stands below each")
    return Report("\n".join(lines), {"well": not ill, "findings": [asdict(one) for one in found]}, failure)


def _looked(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; one that breaks is a finding, too."""
    name = check.__name__.lstrip("_")
    try:
        return list(check())
    except AnalysisError as error:
        return [Finding(name, ILL, str(error))]
    except Exception as error:
        return [Finding(name, ILL, f"{type(error).__name__}: {error}", "install again: make, or pip install -e .")]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    cure = "take another interpreter: make PYTHON=python3.12" if old else ""
    yield Finding("python", ILL if old else WELL, f"{version}, {sys.executable}", cure)


def _versions() -> Iterator[Finding]:
    """The package, and every library that it requires, against the version it asks for."""
    try:
        wanted = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("package", NOTE, f"{paths.ROOT / 'analysis'} runs without being installed", "pip install -e .")
        return
    yield Finding("package", WELL, f"{metadata.version(DISTRIBUTION)}, {paths.ROOT / 'analysis'}")
    if wrong := _unmet(wanted, None):
        yield Finding("libraries", ILL, "; ".join(wrong), "pip install -r requirements.lock, or make")
    else:
        shown = ("torch", "transformers", "numpy", "pandas", "matplotlib", "jupyterlab")
        yield Finding("libraries", WELL, ", ".join(f"{name} {metadata.version(name)}" for name in shown))


def _extras() -> Iterator[Finding]:
    """Which optional parts can be used."""
    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return
    wanted = metadata.requires(DISTRIBUTION) or []
    states = {name: not _unmet(wanted, name) for name in about.get_all("Provides-Extra") or []}
    lacking = [name for name, there in states.items() if not there]
    found = ", ".join(f"{name} {'there' if there else 'absent'}" for name, there in states.items()) or "none"
    cure = f'where wanted: pip install -e ".[{lacking[0]}]"' if lacking else ""
    yield Finding("extras", WELL, found, cure)


def _unmet(wanted: list[str], extra: str | None) -> list[str]:
    """Requirements that the installed versions do not meet, in words."""
    from packaging.requirements import Requirement

    wrong = []
    for line in wanted:
        need = Requirement(line)
        applies = not need.marker or need.marker.evaluate({"extra": extra or ""})
        if not applies or (extra is not None and "extra" not in line):
            continue
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing (wanted {need.specifier or 'any'})")
            continue
        if not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have} (wanted {need.specifier})")
    return wrong


def _device() -> Iterator[Finding]:
    import torch

    from analysis.models.load import usable_device

    device = usable_device("auto")
    if device == "cpu" and shutil.which("nvidia-smi"):
        build = torch.version.cuda or "none (a CPU build)"
        cure = "install torch for CUDA: https://pytorch.org/get-started/locally, or go on with the CPU"
        yield Finding("device", NOTE, f"cpu, though there is a driver of NVIDIA; CUDA of torch: {build}", cure)
    else:
        name = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
        yield Finding("device", WELL, f"{device}{name}")


def _threads() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, wish = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    found = f"{threads} of torch on {cores} cores" + (f", OMP_NUM_THREADS={wish}" if wish else "")
    crowded = threads > cores
    yield Finding("threads", NOTE if crowded else WELL, found, f"export OMP_NUM_THREADS={cores}" if crowded else "")


def _speed() -> Iterator[Finding]:
    """The fastest float32 product of the machine's calibration, which forecasts use too."""
    from analysis.models.load import usable_device
    from analysis.study.machine import this_machine

    machine = this_machine(usable_device("auto"))
    width, rate = max(machine.products["float32"], key=lambda point: point[1])
    slow = rate < LEAST_SPEED
    cure = "nothing else should run beside it; `analysis plan --calibrate FILE` times it anew" if slow else ""
    found = f"float32 products {rate / 1e9:.1f} GFLOP/s (width {width}), disk {machine.disk / 2**20:.0f} MiB/s"
    yield Finding("speed", NOTE if slow else WELL, found, cure)


def _memory() -> Iterator[Finding]:
    free = memory.available()
    little = free < LEAST_MEMORY
    cure = "end other programs, raise the container's limit, or ANALYSIS_WORKERS=1" if little else ""
    yield Finding("memory", ILL if little else WELL, f"{free / 2**30:.1f} GiB free to this process", cure)


def _disk() -> Iterator[Finding]:
    """Room and right to write where results and caches go."""
    place = paths.home()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    little = free < LEAST_DISK
    cure = "make room, or ANALYSIS_HOME=FOLDER on another disk" if little else ""
    yield Finding("disk", ILL if little else WELL, f"{free / 2**30:.1f} GiB free under {place}", cure)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        cure = "ANALYSIS_HOME=FOLDER names another place"
        yield Finding("store", ILL, f"{there} cannot be written ({error.strerror})", cure)
        return
    kept = ", ".join(f"{name} {_size(folder)}" for name, folder in (("runs", paths.runs()), ("cache", paths.cache())))
    yield Finding("store", WELL, kept)


def _size(folder: Path) -> str:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return f"{total / 2**20:.0f} MiB"


def _lab() -> Iterator[Finding]:
    """The models that come with the repository, and whether their weights are weights."""
    if paths.elsewhere():
        cure = "work in a checkout (pip install -e . there), or name a model and texts of your own"
        yield Finding("lab", NOTE, "not here: the package was installed without it", cure)
        return
    files = sorted(paths.lab().glob("*/model.safetensors"))
    hollow = [file.parent.name for file in files if file.stat().st_size < 2**15]
    if hollow or not files:
        yield Finding("lab", ILL, f"no weights in {', '.join(hollow) or paths.lab()}", "git checkout -- data/lab")
    else:
        yield Finding("lab", WELL, f"{len(files)} models in {paths.lab()}")


def _offline() -> Iterator[Finding]:
    """What decides whether names of the hub can be had; the network is not asked."""
    from huggingface_hub import constants

    said = "HF_HUB_OFFLINE=1: names of the hub come from the cache alone" if constants.HF_HUB_OFFLINE else "allowed"
    cached = Path(constants.HF_HUB_CACHE)
    names = len(list(cached.glob("models--*"))) if cached.is_dir() else 0
    yield Finding("network", WELL, f"{said} (the lab needs none); {names} models of the hub in {cached}")


def _kernel() -> Iterator[Finding]:
    """Whether the kernel that notebooks ask for is this interpreter."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    cure = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    try:
        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        yield Finding("kernel", ILL, "there is no kernel python3", cure)
        return
    program = shutil.which(argv[0]) or argv[0]
    same = argv[0] in ("python", "python3") or Path(program).absolute() == Path(sys.executable).absolute()
    found = f"python3 is {program}" if not same else f"python3 is this interpreter ({argv[0]})"
    other = "notebooks opened in JupyterLab would run elsewhere (`analysis figures` does not): " + cure
    yield Finding("kernel", WELL if same else ILL, found, "" if same else other)


CHECKS = (_python, _versions, _device, _threads, _speed, _memory, _disk, _lab, _offline, _extras, _kernel)
"""What is looked at, in order."""
