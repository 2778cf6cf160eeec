"""A job in numbers: windows and tokens of its texts, visits of its recipe, bytes of a number on its model."""

from dataclasses import dataclass
from functools import cached_property

from analysis.models.shape import ITEMS, BlockShape, ModelShape
from analysis.pruning.validation import SHARE
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit, held_out_epochs, looks, visits
from analysis.schema import CALIBRATION, VALIDATION
from analysis.streams.streams import TOKENS_PER_FORWARD
from analysis.study.job import Job


@dataclass(frozen=True, eq=False)
class Sizes:
    """What a forecast counts with.

    kind: of the device, "cpu", "cuda" or "mps". texts: windows by label, as the tables call them.
    """

    job: Job
    shape: ModelShape
    kind: str

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.job.recipe

    @cached_property
    def dtype(self) -> str:
        """What the model is computed in."""
        return self.shape.dtype(self.job.dtype)

    @property
    def item(self) -> int:
        """Bytes of one of its numbers."""
        return ITEMS[self.dtype]

    @cached_property
    def texts(self) -> dict[str, int]:
        """Windows of every text: calibration, validation where the recipe selects, held-out."""
        job, own, texts = self.job, self.job.samples, {}
        other = job.held_out_samples or job.samples
        if self.recipe.selects and job.validation is None:
            texts[VALIDATION] = max(1, own // SHARE)
            own -= texts[VALIDATION]
        elif self.recipe.selects:
            texts[VALIDATION] = other
        return {CALIBRATION: max(own, 1) + job.added_samples} | texts | {label: other for label, _ in job.held_out}

    @property
    def shown(self) -> int:
        """Windows that masks are chosen on."""
        windows = self.texts[CALIBRATION]
        return windows if self.recipe.added == "all" else windows - self.job.added_samples

    def tokens(self, label: str = CALIBRATION) -> int:
        """Tokens of a text."""
        return self.texts[label] * self.job.length

    @property
    def all_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(self.tokens(label) for label in self.texts)

    @property
    def chunk(self) -> int:
        """Windows in one forward."""
        return max(1, TOKENS_PER_FORWARD.get(self.kind, 1024) // self.job.length)

    def forwards(self, windows: int) -> int:
        """In how many forwards so many windows go through a block."""
        return -(-windows // self.chunk)

    @cached_property
    def visits(self) -> list[Visit]:
        """The visits, in order. Raises UsageError for a unit that the model is too small for."""
        return visits(len(self.shape.blocks), self.recipe.unit)

    def new(self, visit: Visit) -> list[int]:
        """The blocks of a visit that no visit before has had."""
        before = {index for other in self.visits[: visit.index] for index in other.blocks}
        return [index for index in visit.blocks if index not in before]

    @property
    def trains(self) -> bool:
        """Whether gradient steps are taken."""
        return self.recipe.solver.name in TRAINED

    @property
    def steps(self) -> int:
        """Gradient steps of a unit."""
        solver = self.recipe.solver
        return solver.epochs * -(-self.texts[CALIBRATION] // solver.batch) if self.trains else 0

    @property
    def batch(self) -> int:
        """Tokens in a gradient step."""
        return min(self.recipe.solver.batch, self.texts[CALIBRATION]) * self.job.length

    @cached_property
    def judged_epochs(self) -> dict[str, int]:
        """How often each text is looked at while a unit trains, calibration text before the first step included."""
        solver, epochs = self.recipe.solver, self.recipe.solver.epochs
        held_out = sum(self.tokens(label) for label, _ in self.job.held_out)
        operations = 2.0 * sum(self.shape.blocks[index].weights for visit in self.visits for index in visit.blocks)
        every = held_out_epochs(
            self.job.held_out_every, epochs, trained=self.tokens(), held_out=held_out, operations=operations
        )
        looked = sum(looks(every, epoch, epoch == epochs) for epoch in range(epochs + 1))
        own = {CALIBRATION: 1 + epochs * (solver.select == "calibration"), VALIDATION: epochs + 1}
        return {label: own.get(label, looked) for label in self.texts}

    def blocks(self, visit: Visit) -> list[BlockShape]:
        """The blocks of a visit."""
        return [self.shape.blocks[index] for index in visit.blocks]

    def trained(self, block: BlockShape) -> int:
        """Numbers of a block that a gradient solver trains."""
        solver, plain = self.recipe.solver, block.parameters - block.weights
        if solver.train == "all":
            return block.parameters
        adapters = sum(solver.rank * (matrix.rows + matrix.columns) for matrix in block.matrices)
        return plain + (adapters if solver.train == "masklora" else 0)

    @property
    def rest(self) -> int:
        """Parameters outside the blocks: embeddings, final norm, head."""
        return self.shape.parameters - sum(block.parameters for block in self.shape.blocks)

    def kept_experts(self, block: BlockShape) -> tuple[int, float]:
        """How many activations the last projections of the experts that stay read together, and the share of them that
        a token has; (0, 0.0) where the block has none."""
        last, kept = block.last, 1 - (self.recipe.pattern.sparsity or 0.0)
        if not last:
            return 0, 0.0
        return round(kept * sum(matrix.columns for matrix in last)), min(1.0, last[0].share / kept)

    @property
    def kept(self) -> float:
        """The share of a matrix's weights that stays."""
        pattern = self.recipe.pattern
        return pattern.keep / pattern.of if pattern.keep and pattern.of else 1 - (pattern.sparsity or 0.0)
