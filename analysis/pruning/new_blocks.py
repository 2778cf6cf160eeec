"""The blocks of a visit that have no masks yet, and the streams at their inputs."""

from collections.abc import Iterator
from dataclasses import replace

from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.solvers import REPAIRS
from analysis.pruning.state import State
from analysis.reconstruction.schedule import Visit
from analysis.streams.streams import streams_past


def new_blocks(state: State, visit: Visit) -> Iterator[Visit]:
    """The visit's blocks without masks, in order, each as a visit of its own with `state.entry` at its input: past the
    visit's earlier blocks as they stand, so that each sees its predecessors repaired.
    """
    recipe, unmasked = state.recipe, state.unmasked(visit)
    repair = REPAIRS[recipe.repair.name]
    reads = CHOOSERS[recipe.pattern.kind].reads(recipe) | repair.reads(recipe)
    if repair.reads(recipe):
        stage, texts = "repair", [state.calibration, *(state.judged if repair.validation(recipe) else [])]
        tokens = sum(streams.tokens for streams in texts)
    else:
        stage, texts, tokens = "statistics", [state.calibration.first(state.shown)], state.shown_tokens
    state.entry = texts
    for index in visit.blocks if unmasked else ():
        if index in unmasked:
            yield replace(visit, blocks=(index,))
        if reads and index < unmasked[-1]:
            modules = {stream: state.side(stream).blocks[index].module for stream in sorted(reads)}
            with state.meter.stage(visit.index, stage, tokens=tokens):
                state.entry = [
                    streams_past(streams, modules, index, fresh=state.entry is texts) for streams in state.entry
                ]
    state.entry = []
