"""Whether a model can be pruned block by block: replay of every block against its own forward, and its matrices."""

from dataclasses import dataclass

import pandas as pd
import torch

from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.load import LoadedModel
from analysis.models.replay import replay_error, tolerance_for
from analysis.windows import Windows

LONGEST = 1024


@dataclass(frozen=True, eq=False)
class CheckReport:
    """replay: [block, name, relative_error]. matrices: [block, matrix, half, rows, columns, weights]. tolerance: on the
    relative error.
    """

    replay: pd.DataFrame
    matrices: pd.DataFrame
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether replay is exact to the tolerance in every block (nan is not)."""
        return bool((self.replay.relative_error <= self.tolerance).all())


def check(loaded: LoadedModel, windows: Windows | None = None) -> CheckReport:
    """Replay every block on `windows` (default: seeded random tokens, some padded) and list the matrices.

    Raises UnsupportedModel where the model cannot be taken apart. A replay that is not exact is reported, not raised.
    """
    parts = anatomy(loaded.model)
    windows = random_windows(loaded) if windows is None else windows
    return CheckReport(replay_error(loaded.model, parts, windows), matrix_table(parts), tolerance_for(loaded.dtype))


def matrix_table(parts: Anatomy) -> pd.DataFrame:
    """One row per prunable matrix: block, matrix, half, rows (out), columns (in), weights."""
    rows = [
        {
            "block": block.index,
            "matrix": matrix.name,
            "half": matrix.half,
            "rows": matrix.rows,
            "columns": matrix.columns,
            "weights": matrix.rows * matrix.columns,
        }
        for block in parts.blocks
        for matrix in block.matrices
    ]
    return pd.DataFrame(rows)


def random_windows(loaded: LoadedModel, count: int = 4, seed: int = 0) -> Windows:
    """Uniform random token ids (count, T): whole, padded on the right, on the left and whole again.

    T is 64, or longer than the model's sliding window where that fits its context and 1024 tokens: below it a sliding
    window changes nothing.
    """
    config = loaded.model.config.get_text_config()
    length = max(64, min(getattr(config, "sliding_window", None) or 0, LONGEST - 16) + 16)
    length = min(length, loaded.context or length)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(loaded.model.get_input_embeddings().num_embeddings, (count, length), generator=generator)
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[1::4, length - length // 3 :] = False
    mask[2::4, : length // 4] = False
    return Windows(
        ids=ids,
        mask=mask,
        label="random tokens",
        provenance={"source": "uniform random tokens", "seed": seed, "length": length, "samples": count},
    )
