"""The share that each matrix of a model loses, before the first visit (`masks/shares.py`)."""

from analysis.masks.criteria import wanda_scores
from analysis.masks.shares import block_sizes, check_counts, matrix_shares, outlier_ratio
from analysis.models.held import held
from analysis.pruning.state import State
from analysis.recipe.shares import OWL
from analysis.streams.streams import advance, input_statistics


def choose_shares(state: State) -> dict[str, float]:
    """Full matrix name -> share to remove; empty where every matrix loses the same. OWL's take one pass of the dense
    model over the calibration windows.
    """
    pattern = state.recipe.pattern
    ratios = outlier_ratios(state, pattern.outliers) if pattern.shares == OWL else None
    shares = matrix_shares(pattern, block_sizes(state.dense), ratios)
    if ratios is not None:  # given shares were checked before any work
        shapes = {name: (matrix.rows, matrix.columns) for name, matrix in state.dense.matrices()}
        check_counts(state.recipe.criterion, pattern, shapes, shares)
    return shares


def outlier_ratios(state: State, outliers: float) -> list[float]:
    """The share of outliers in every block of the dense model; both streams stand at the first block."""
    streams, ratios, passed = state.calibration, [], None
    hidden = streams.of("dense")[: state.shown]
    with state.meter.stage(-1, "statistics", tokens=state.shown_tokens):
        for index, block in enumerate(state.dense.blocks):
            with held(block.module):
                statistics = input_statistics(block, block.matrices, streams, hidden, "diagonal", state.precision)
                scores = [wanda_scores(matrix.weight(), statistics[matrix.name]) for matrix in block.matrices]
                ratios.append(outlier_ratio(scores, outliers))
                if index < len(state.dense.blocks) - 1:
                    hidden = passed = advance([block.module], index, streams.recording, hidden, out=passed)
    return ratios
