"""A forecast before the work: what a job will take in seconds, memory, disk and tokens, stage by stage, counted from
the sizes of its model and texts, with the rates of a machine. Nothing is loaded, nothing is run.

    shape = model_shape("meta-llama/Llama-2-7b-hf")
    forecast(job, shape, "cuda").peak.device / 2**30      # GiB; seconds need a machine: forecast(..., this_machine())
"""

from dataclasses import dataclass, field
from typing import Any

from analysis.models.shape import ModelShape
from analysis.study import footprint
from analysis.study.counts import SWAPPED, works
from analysis.study.footprint import Held
from analysis.study.job import Job
from analysis.study.machine import Machine
from analysis.study.sizes import Sizes

LONG = 10.0  # seconds from which a run says how long it will take


@dataclass(frozen=True)
class Stage:
    """One kind of work in all visits together: seconds (None where no machine's rates are known), operations, tokens
    read, and the most memory it holds at once, on the device and on the host."""

    name: str
    seconds: float | None
    operations: float
    tokens: int
    held: Held


@dataclass(frozen=True)
class Forecast:
    """What a job will take.

    kind: of the device; dtype: of the model; stages: in the order they first come; disk: bytes of the folder it writes;
    spilled: bytes of temporary files that streams take where memory has no room for them; uncounted: what it takes
    besides, in words.
    """

    kind: str
    dtype: str
    placement: str
    stages: tuple[Stage, ...]
    disk: int
    spilled: int = 0
    uncounted: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """In all; None where no rates are known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def tokens(self) -> int:
        """Read in all, each as often as it is read."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def peak(self) -> Held:
        """The most memory held at once, on either side."""
        return footprint.peak(stage.held for stage in self.stages)

    def fullest(self, side: str) -> Stage:
        """The stage that holds the most on a side ("device", "host")."""
        return max(self.stages, key=lambda stage: getattr(stage.held, side))

    def line(self) -> str:
        """The forecast in one line."""
        words = [] if self.seconds is None else [f"about {duration(self.seconds)}"]
        if self.kind != "cpu":
            words.append(f"{size(self.peak.device)} on the device")
        words += [f"{size(self.peak.host)} of memory", f"{size(self.disk + self.spilled)} of disk"]
        return f"forecast: {', '.join(words)}, {self.tokens:,} tokens read"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "device": self.kind,
            "dtype": self.dtype,
            "placement": self.placement,
            "seconds": self.seconds,
            "device_memory": self.peak.device,
            "host_memory": self.peak.host,
            "disk": self.disk,
            "temporary_disk": self.spilled,
            "tokens": self.tokens,
            "stages": [
                {
                    "stage": stage.name,
                    "seconds": stage.seconds,
                    "operations": stage.operations,
                    "tokens": stage.tokens,
                    "device_memory": stage.held.device,
                    "host_memory": stage.held.host,
                }
                for stage in self.stages
            ],
            "uncounted": list(self.uncounted),
        }


def forecast(
    job: Job,
    shape: ModelShape,
    kind: str,
    machine: Machine | None = None,
    *,
    room: Held | None = None,
    saves: bool = True,
) -> Forecast:
    """What a job on a model of this shape will take on a device of this kind ("cpu", "cuda", "mps").

    machine: whose rates give the seconds; None: they are not known. room: memory that is free, which decides where
    streams go (None: there is enough). saves: whether the pruned model is written, as `analysis prune` does. Raises
    UsageError for a unit that the model is too small for.
    """
    sizes = Sizes(job, shape, kind)
    base = machine.interpreter if machine is not None else footprint.INTERPRETER
    held = footprint.stages(sizes, base, room, saves)
    stages = tuple(
        Stage(name, machine.seconds(work) if machine else None, work.operations, tokens, held[name])
        for name, (work, tokens) in works(sizes, saves).items()
    )
    return Forecast(
        kind,
        sizes.dtype,
        job.placement,
        stages,
        footprint.disk(sizes) if saves else 0,
        footprint.spilled(sizes, room),
        tuple(_uncounted(sizes)),
    )


def _uncounted(sizes: Sizes) -> list[str]:
    """What a forecast leaves out, in words."""
    job, recipe = sizes.job, sizes.recipe
    foreign = [
        word
        for word, record in (("criterion", recipe.criterion_word), ("solver", recipe.solver.word))
        if record.version
    ]
    found = [f"the {word} from outside the package" for word in foreign]
    if job.full_test:
        found.append("--full-test, which reads whole texts")
    if any(str(source).startswith("self") for source in (job.calibration, job.added, job.validation)):
        found.append("text that the model writes itself")
    if recipe.refinement.name == "swaps":
        found.append(f"swaps beyond the first {SWAPPED} of a row")
    return found


# --- words ------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(count: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
