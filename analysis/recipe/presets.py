"""One word for a row of a paper's table: preset name -> recipe text, where it comes from, what it shows. No torch.

Sparsity, method and optimiser are the paper's; model, texts and numbers of windows are the run's own arguments.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A recipe worth a name of its own: its text form, its source, what it is."""

    text: str
    source: str
    description: str


def _shin() -> dict[str, Preset]:
    methods = {"LR": "LR", "BR": "BR", "GP": "BR+GP", "CR": "BR+GP+CR"}
    return {
        f"shin-{criterion}-{word}": Preset(
            f"{criterion}-50% {method}", "2406.15524 tables 1-4", "a row of its tables of LLaMA-7B and OPT-125M"
        )
        for criterion in ("magnitude", "wanda", "sparsegpt")
        for word, method in methods.items()
    }


def _wagner() -> dict[str, Preset]:
    sizes = {
        "matrix": ("unit=matrix", "each matrix on its own"),
        "half": ("unit=sub-block", "attention and MLP halves"),
        "block": ("", "one block at a time"),
        "2-blocks": ("width=2", "two blocks at a time"),
        "4-blocks": ("width=4", "four blocks at a time"),
        "stack": ("unit=model", "all blocks at once"),
    }
    presets, source = {}, "2510.14444, defaults of its released code"
    patterns = {"magnitude": "50%", "wanda": "50%", "ria": "50%[group=row]", "sparsegpt": "50%"}  # its RIA goes by rows
    for criterion, pattern in patterns.items():
        for word, (unit, meaning) in sizes.items():
            options = ",".join(filter(None, (unit, "settings=paper2")))
            presets[f"wagner-{criterion}-{word}"] = Preset(
                f"{criterion}-{pattern} IR[{options}]", source, f"granularity: {meaning}, inputs and targets dense"
            )
        presets[f"wagner-{criterion}-retrain"] = Preset(
            f"{criterion}-{pattern} retrain[settings=paper2]", source, "baseline: full retraining under the mask"
        )
        presets[f"wagner-{criterion}-peft"] = Preset(
            f"{criterion}-{pattern} retrain[settings=paper2,train=masklora]",
            source,
            "baseline: MaskLoRA, norms and biases retrained",
        )
    return presets


def _companions() -> dict[str, Preset]:
    patterns = ("50%", "60%", "2:4")
    frank_wolfe = {
        f"sparsefw-{criterion}-{pattern}": Preset(
            f"{criterion}+fw-{pattern} LR", "2510.13713 table 1", "Frank-Wolfe mask refinement"
        )
        for criterion in ("wanda", "ria")
        for pattern in patterns
    }
    swaps = {
        f"sparseswaps-{criterion}-{pattern}": Preset(
            f"{criterion}+swaps-{pattern}{group} LR", "2512.10922", "mask refinement by swaps, equal sparsity per row"
        )
        for criterion in ("magnitude", "wanda", "ria")
        for pattern in patterns
        for group in ["" if ":" in pattern or criterion == "wanda" else "[group=row]"]
    }
    perp = {
        f"perp-{criterion}-{train}": Preset(
            f"{criterion}-50% retrain[train={train}]", "2312.15230", "parameter-efficient retraining"
        )
        for criterion in ("magnitude", "wanda")
        for train in ("masklora", "norms-biases")
    }
    return frank_wolfe | swaps | perp


def _structured() -> dict[str, Preset]:
    figures = {"heads": "figure 3", "neurons": "figures 3-4"}
    liar = {
        f"liar-{criterion}-{kind}": Preset(
            f"{criterion}-{kind}-50% LIAR",
            f"after 2407.13331 {figures[kind]} (its text and code could not be had)",
            "affine ridge repair of removed structures",
        )
        for criterion in ("magnitude", "snip")
        for kind in figures
    }
    source, method = "2312.11983, defaults of its released code", "compensate[student=dense,target=dense]"
    flap = {
        f"an-flap-{share}": Preset(
            f"flap-structures-{share}[scope=global] {method}",
            source,
            "fluctuation, one threshold for all layers, bias compensation",
        )
        for share in ("20%", "30%", "50%")
    }
    source = "2312.11983, its baseline Wanda-sp"
    wanda_sp = {
        f"an-wanda-sp-{share}": Preset(f"wanda-sp-structures-{share} LR", source, "the same share of every layer")
        for share in ("20%", "30%", "50%")
    }
    source, pattern = (
        "2204.09656, its released code without rearrangement, targets of the whole dense model",
        "[scope=global,flops=170]",
    )
    kwon = {
        f"kwon-fisher-{share}": Preset(
            f"fisher-structures-{share}{pattern} scale[target=dense]",
            source,
            "a FLOP budget at SQuAD's mean length, mask tuning",
        )
        for share in ("30%", "50%")
    }
    return liar | flap | wanda_sp | kwon


PRESETS: dict[str, Preset] = _shin() | _wagner() | _companions() | _structured()
