"""What breaks when people, disks and processes do their worst: counts of wrong numbers, tracebacks and hangs.

    python benchmarks/attacks.py inputs     bad calls of every verb of the command line (benchmarks/attacks_inputs.py)
    python benchmarks/attacks.py python     bad calls of the public functions
    python benchmarks/attacks.py stores     stored runs, --out folders and checkpoints altered, then asked for again
    python benchmarks/attacks.py kills      commands killed at a random change of their files, then repeated
    python benchmarks/attacks.py disks      commands on a full disk, then with room again (mounts one: root, Linux)

Prints every breach and one line of counts; exit code 1 where there is a breach. A number after the name seeds what is
random. One thread; nothing is written outside a temporary folder.
"""

import hashlib
import io
import json
import math
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", ANALYSIS_PROGRESS="0", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parents[1]))

SECONDS = 120  # after which a call that should be refused counts as hanging


class Hang(BaseException):
    """Raised by the alarm; nothing catches it."""


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def called(argv: list[str], seconds: int = SECONDS) -> tuple[int | None, str]:
    """One command in this process: its exit code (None: a traceback or a hang) and what it said."""
    from analysis.cli import main

    out, err = io.StringIO(), io.StringIO()
    try:
        with alarm(seconds), redirect_stdout(out), redirect_stderr(err):
            code = main(argv)
    except Hang:
        return None, f"hang: more than {seconds} s"
    except BaseException as error:  # whatever escapes is what is looked for
        return None, f"traceback: {type(error).__name__}: {str(error)[:160]}"
    return code, err.getvalue()


def called_apart(argv: list[str], seconds: int) -> tuple[int | None, str]:
    """The same in a process of its own, for commands that start others."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "analysis", *argv], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return None, f"hang: more than {seconds} s"
    return (None, f"traceback: {done.stderr[-160:]}") if "Traceback" in done.stderr else (done.returncode, done.stderr)


def judged(code: int | None, said: str, right: set[int]) -> str | None:
    """What is wrong with a refusal: None where it is right."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code is None:
        return said
    if code not in right:
        return (
            f"silent: exit {code}" if code == 0 else f"exit {code}, not {sorted(right)}: {(errors or [said])[0][:160]}"
        )
    if code and ("Traceback" in said or len(errors) != 1):
        return f"unclear: {said[-160:]!r}"
    if any(len(line) > 2000 for line in errors):
        return f"unclear: a message of {max(map(len, errors)):,} characters"
    return None


def inputs(folder: Path, _: random.Random) -> Iterator[tuple[str, str | None]]:
    from benchmarks.attacks_inputs import build_world, command_lines

    for name, (argv, right) in command_lines(build_world(folder)).items():
        code, said = called(argv)
        yield name, judged(code, said, right)
        shutil.rmtree(folder / "out", ignore_errors=True)


def python(folder: Path, _: random.Random) -> Iterator[tuple[str, str | None]]:
    from analysis.errors import AnalysisError
    from benchmarks.attacks_inputs import build_world, python_calls

    for name, call in python_calls(build_world(folder)).items():
        try:
            with alarm(SECONDS), redirect_stderr(io.StringIO()):
                call()
        except AnalysisError:
            yield name, None
        except Hang:
            yield name, f"hang: more than {SECONDS} s"
        except BaseException as error:  # whatever escapes is what is looked for
            yield name, f"traceback: {type(error).__name__}: {str(error)[:160]}"
        else:
            yield name, "silent: accepted"


PRUNE = ["prune", "lab", "--recipe=wanda-50% BR+GP[epochs=1]", "--calibration=lab:stories", "--held-out=lab:stories",
         "--samples=4", "--length=32"]  # fmt: skip
UNTOLD = {"cost.csv", "cost.parquet", "summary.json", "manifest.json", "provenance.json"}  # hold times and memory


def content(folder: Path) -> dict[str, str]:
    """Hash of every file of results, and the numbers of the summary that are not times."""
    hashes = {
        str(path.relative_to(folder)): hashlib.sha256(_without_times(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNTOLD and not path.name.endswith(".lock") and path.name != ".lock"
    }
    if (folder / "summary.json").is_file():
        summary = json.loads((folder / "summary.json").read_text())
        hashes["summary"] = json.dumps([summary["perplexity"], summary["sparsity"]], sort_keys=True)
    return hashes


def _without_times(path: Path) -> bytes:
    """A file's content, without the latency and throughput in the table of sizes and the seconds of a training."""
    if path.name == "training.json":
        return json.dumps(json.loads(path.read_text()) | {"seconds": 0}).encode()
    if path.name != "size.csv":
        return path.read_bytes()
    return "\n".join(",".join(line.split(",")[:3]) for line in path.read_text().splitlines()).encode()


def alterations(draw: random.Random) -> dict[str, Callable[[Path], object]]:
    """What may have happened to a file."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)

    def fifo(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def swapped(path: Path) -> None:
        other = next(
            (
                each
                for each in sorted(path.parent.iterdir())
                if each.is_file() and each.suffix == path.suffix and each != path
            ),
            None,
        )
        path.write_bytes(other.read_bytes() if other else b"")

    return {
        "one bit": flip,
        "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "empty": lambda path: path.write_bytes(b""),
        "gone": lambda path: path.unlink(),
        "a fifo": fifo,
        "a folder": folder,
        "another's": swapped,
        "[]": lambda path: path.write_text("[]"),
        "null": lambda path: path.write_text("null"),
        "nested deep": lambda path: path.write_text("[" * 200_000 + "]" * 200_000),
        "a number edited": lambda path: path.write_bytes(path.read_bytes().replace(b"1", b"2")),
    }


def stores(folder: Path, draw: random.Random) -> Iterator[tuple[str, str | None]]:
    """Every kind of file altered in every way; the command repeated must give the numbers it gave, or refuse with 6."""
    os.environ["ANALYSIS_HOME"] = str(folder / "home")
    argv = [*PRUNE, f"--out={folder / 'out'}"]
    code, said = called(argv)
    assert code == 0, said
    right = content(folder / "out")
    shutil.copytree(folder / "out", folder / "finished")
    ways = alterations(draw)
    for file in (
        "summary.json",
        "blocks.csv",
        "perplexity.csv",
        "model/model.safetensors",
        "model/config.json",
        ".request.json",
    ):
        for way, alter in ways.items():
            shutil.rmtree(folder / "out")
            shutil.copytree(folder / "finished", folder / "out")
            if not (folder / "out" / file).exists():
                continue
            alter(folder / "out" / file)
            yield f"--out {file}: {way}", _asked_again(argv, folder / "out", right)
    yield from _visits(folder, argv, right, ways)
    yield from _runs(folder, ways)


def _asked_again(argv: list[str], out: Path, right: dict[str, str]) -> str | None:
    code, said = called(argv)
    if code is None or "Traceback" in said:
        return said[-200:]
    if code == 0:
        return None if content(out) == right else "silent: served with other content"
    return None if code == 6 else judged(code, said, {6})


def _visits(folder: Path, argv: list[str], right: dict[str, str], ways: dict) -> Iterator[tuple[str, str | None]]:
    """Checkpoints of an interrupted run, altered."""
    begun = folder / "begun"
    _until(argv, folder / "out", lambda: len(list((folder / "out").rglob("visit-000*"))) >= 4)
    shutil.rmtree(begun, ignore_errors=True)
    shutil.copytree(folder / "out", begun)
    for visit in sorted(path.relative_to(begun) for path in begun.rglob("visit-000*") if path.is_file())[:2]:
        for way, alter in ways.items():
            shutil.rmtree(folder / "out")
            shutil.copytree(begun, folder / "out")
            alter(folder / "out" / visit)
            yield f"checkpoint {visit.name}: {way}", _asked_again(argv, folder / "out", right)


def _runs(folder: Path, ways: dict) -> Iterator[tuple[str, str | None]]:
    """A study's stored run, altered."""
    from analysis import grid, run_study

    jobs = grid(
        model="lab",
        recipes=["wanda-50% LR"],
        calibration="lab:stories",
        held_out={"a": "lab:stories"},
        samples=4,
        length=32,
    )
    numbers = run_study(jobs, progress=False).blocks.to_csv()
    run = next(path for path in (folder / "home").rglob("prune-*") if path.is_dir())
    shutil.copytree(run, folder / "run")
    for file in ("manifest.json", "provenance.json", "job.json", "blocks.parquet"):
        for way, alter in ways.items():
            shutil.rmtree(run)
            shutil.copytree(folder / "run", run)
            alter(run / file)
            fault = None
            try:
                with alarm(SECONDS), redirect_stderr(io.StringIO()):
                    if run_study(jobs, progress=False).blocks.to_csv() != numbers:
                        fault = "silent: other numbers"
            except BaseException as error:
                from analysis.errors import StoreError

                fault = (
                    None if isinstance(error, StoreError) else f"traceback: {type(error).__name__}: {str(error)[:160]}"
                )
            yield f"run {file}: {way}", fault


def _until(argv: list[str], out: Path, ready: Callable[[], bool]) -> None:
    """The command, killed as soon as `ready`; with an empty folder first."""
    shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "analysis", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not ready() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()


KILLED = {
    "prune": [*PRUNE, "--out=OUT"],
    "shrink": ["prune", "lab", "--recipe=flap-neurons-50% LIAR+GP", *PRUNE[3:], "--shrink", "--out=OUT"],
    "retrain": ["prune", "lab", "--recipe=wanda-50% retrain[epochs=2]", *PRUNE[3:], "--out=OUT"],
    "generate": ["data", "generate", "lab", "--texts=48", "--settings=tokens=24,batch=8", "--out=OUT/own.jsonl"],
    "train": [
        "lab",
        "train",
        "--tokens=60000",
        "--hidden=32",
        "--blocks=2",
        "--intermediate=32",
        "--heads=2",
        "--kv-heads=1",
        "--vocabulary=300",
        "--context=64",
        "--window=64",
        "--out=OUT",
    ],
}


def kills(folder: Path, draw: random.Random) -> Iterator[tuple[str, str | None]]:
    """Each command killed at random changes of its files, repeated, and compared with one never killed."""
    import analysis

    for module in pkgutil.walk_packages(analysis.__path__, "analysis."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    import transformers.models.llama.modeling_llama  # noqa: F401

    for name, words in KILLED.items():
        home = folder / f"home-{name}"
        os.environ["ANALYSIS_HOME"] = str(home)

        def ran(out: Path, moment: float = math.inf, words=words, home=home) -> tuple[int, int, str]:
            (out if "generate" in words else out.parent).mkdir(parents=True, exist_ok=True)
            process = _forked([word.replace("OUT", str(out)) for word in words], said := folder / "said")
            changes, seen = 0, None
            while not (ended := os.waitpid(process, os.WNOHANG))[0]:
                state = [changed for root in (out, home) for path in _files(root) if (changed := _changed(path))]
                changes, seen = changes + (state != seen), state
                time.sleep(0.005)
                if changes > moment:
                    time.sleep(draw.random() / 4)
                    os.kill(process, signal.SIGKILL)
                    moment = math.inf
            return os.waitstatus_to_exitcode(ended[1]), changes, said.read_text()

        code, changes, said = ran(folder / name / "whole")
        right = content(folder / name / "whole")
        assert code == 0 and right, said
        for attempt in range(4):
            shutil.rmtree(home, ignore_errors=True)
            out = folder / name / f"killed-{attempt}"
            while (begun := ran(out, moment=draw.randrange(changes)))[0] != -signal.SIGKILL:  # it was quicker
                changes = begun[1]
                shutil.rmtree(home, ignore_errors=True)
                shutil.rmtree(out)
            code, _, said = ran(out)
            fault = "traceback: " + said[-200:] if "Traceback" in said else judged(code, said, {0})
            yield (
                f"{name} {attempt}",
                fault or (None if content(out) == right else "silent: other content: " + _difference(out, right)),
            )


def _forked(argv: list[str], said: Path) -> int:
    """The process of one command, which has its imports already; what it says goes to a file."""
    if process := os.fork():
        return process
    code = 1
    try:
        with said.open("w") as errors, open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(errors.fileno(), 2)
        from analysis.cli import main

        code = main(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _changed(path: Path) -> tuple[Path, int] | None:
    """A file and when it was written; None where it is gone by now."""
    try:
        return path, path.stat().st_mtime_ns
    except OSError:
        return None


def _files(root: Path) -> list[Path]:
    try:
        return [path for path in sorted(root.rglob("*")) if path.is_file()]
    except OSError:
        return []


def _difference(out: Path, right: dict[str, str]) -> str:
    now = content(out)
    return ", ".join(sorted(name for name in {*now, *right} if now.get(name) != right.get(name))[:6])


def disks(folder: Path, _: random.Random) -> Iterator[tuple[str, str | None]]:
    """Each command on a disk that is full at another moment: one message, and with room again the result."""
    train = [
        "lab",
        "train",
        "--tokens=20000",
        "--hidden=64",
        "--blocks=2",
        "--intermediate=64",
        "--heads=2",
        "--kv-heads=1",
        "--vocabulary=300",
        "--context=64",
        "--window=64",
    ]
    commands = {
        "prune": ([*PRUNE, "--out=DISK/out"], ["16k", "400k", "1m", "3m", "5m"]),
        "generate": (
            ["data", "generate", "lab", "--texts=48", "--settings=tokens=24,batch=8", "--out=DISK/own.jsonl"],
            ["8k", "24k"],
        ),
        "train": ([*train, "--out=DISK/out"], ["16k", "200k", "700k"]),
        "store": ([*PRUNE, "--out=OUT"], ["16k", "64k"]),
        "figures": (
            ["figures", "--preset=smoke", "--only=01_compounding_error", "--figures=DISK/figures"],
            ["16k", "128k"],
        ),
    }
    for name, (words, sizes) in commands.items():
        for size in sizes:
            disk, out = folder / f"{name}-{size}", folder / f"{name}-{size}-out"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
            try:
                os.environ["ANALYSIS_HOME"] = str(disk if name == "store" else folder / f"home-{name}-{size}")
                argv = [word.replace("DISK", str(disk)).replace("OUT", str(out)) for word in words]
                code, said = called_apart(argv, 900)
                fault = judged(code, said, {0, 6, 7})
                subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
                again, said = called_apart(argv, 900)
                yield (
                    f"{name} on {size} (exit {code})",
                    fault or (None if again == 0 else f"with room again exit {again}: {said[-160:]}"),
                )
            finally:
                subprocess.run(["umount", disk], check=True)


PARTS = {"inputs": inputs, "python": python, "stores": stores, "kills": kills, "disks": disks}


def attack(part: str, seed: int) -> int:
    """Run one part and print its breaches and counts. Returns the number of breaches."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANALYSIS_HOME"] = str(Path(folder) / "home")
        (Path(folder) / "work").mkdir()
        for name, fault in PARTS[part](Path(folder) / "work", random.Random(seed)):
            counts[
                "held"
                if fault is None
                else fault.split(":")[0]
                if fault.split(":")[0] in ("silent", "traceback", "hang", "unclear")
                else "other"
            ] += 1
            if fault is not None:
                print(f"{part} | {name} | {fault}", flush=True)
    breaches = sum(counts.values()) - counts["held"]
    print(
        f"{part}: {sum(counts.values())} tried, "
        + ", ".join(f"{counts[kind]} {kind}" for kind in ("held", "silent", "traceback", "hang", "unclear", "other"))
    )
    return breaches


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        raise SystemExit(__doc__)
    raise SystemExit(1 if attack(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0) else 0)
