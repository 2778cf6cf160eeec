"""Who chooses the masks, by the pattern's kind."""

from analysis.pruning.depth import check_count, choose_depth, give_back, runs_halves
from analysis.pruning.depth import choose_first as choose_depth_first
from analysis.pruning.experts import check_experts, choose_kept
from analysis.pruning.experts import choose_first as choose_experts_first
from analysis.pruning.steps import ChooserSteps
from analysis.pruning.structures import choose_first, choose_whole, describe_in_config, find_structures, reads_evidence
from analysis.pruning.weights import choose_weights, reads_statistics

_whole = ChooserSteps(
    choose_whole, reads=reads_evidence, find=find_structures, begin=choose_first, finish=describe_in_config
)
_depth = ChooserSteps(
    choose_depth, find=check_count, halves=runs_halves, begin=choose_depth_first, finish=give_back, early=True
)

CHOOSERS: dict[str, ChooserSteps] = {
    "weights": ChooserSteps(choose_weights, reads=reads_statistics),
    "heads": _whole,
    "neurons": _whole,
    "structures": _whole,
    "blocks": _depth,
    "attention": _depth,
    "mlp": _depth,
    "experts": ChooserSteps(choose_kept, find=check_experts, begin=choose_experts_first, early=True),
}
