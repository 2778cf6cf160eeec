"""The words of a recipe, explained."""

CRITERIA = {
    "random": "random scores: the baseline",
    "magnitude": "keep the largest weights, compared within each matrix; the heads and neurons of the largest norm",
    "wanda": "keep the largest |weight| x norm of its input, within each output row (2306.11695)",
    "sparsegpt": "keep by the OBS error of removing, within each block of columns, and update the others (2301.00774)",
    "ria": (
        "keep the weights that are largest relative to their row and column, times the root of the input's norm (RIA)"
    ),
    "activation": "keep the heads and neurons of the largest activations",
    "wanda-sp": "keep the heads and neurons of the largest |weight| x norm of its input, summed (2312.11983)",
    "flap": (
        "keep the heads and neurons that fluctuate most, seen through their weights, standardised within each layer"
        " (2312.11983)"
    ),
    "snip": "keep the heads and neurons whose removal changes the loss most, to first order (1810.02340)",
    "fisher": "keep the heads and neurons of the largest diagonal Fisher information (2204.09656)",
}


PATTERNS = {
    "50%": "remove this share of the weights",
    "2:4": "keep 2 of every 4 consecutive inputs of each output",
    "heads-50%": "remove this share of the attention heads; criteria random, magnitude and those from activation on",
    "neurons-50%": "remove this share of the MLP neurons",
    "structures-50%": "remove this share of both; with scope=global of all layers together",
}
