"""Numbers of "Rethinking Pruning LLMs: Benefits and Pitfalls of Reconstruction Error Minimization" (2406.15524, EMNLP
2024).

50 % unstructured sparsity, 256 calibration sequences of 1,024 tokens of C4. `RESULTS` holds tables 1 and 3: the error
at the last block on the calibration data (mean squared difference, not divided by anything) and perplexity;
`CALIBRATION_AND_TEST` holds tables 2 and 4: the same error on calibration and on three test texts; `ACCURACY` the mean
of tables 1 and 3 over seven zero-shot tasks (BoolQ, RTE, HellaSwag, WinoGrande, ARC-e, ARC-c, OpenbookQA), in per cent;
`DENSE` what the untouched models reach; `PRUNABLE` their prunable weights, from their architectures. Beside other
models only ratios compare fairly. `OVERLAP` is what CR changes in them, in per cent: calibration error, error and
perplexity on C4, at `ratio` prunable weights of a block per calibration token. `HALVES` is table 7: OPT-125M and
SparseGPT with only attention, only the MLP, or both pruned, as the increase of WikiText-2 perplexity over the dense
model in per cent.

`REFINED` is table 1 of "Don't Be Greedy, Just Relax! Pruning LLMs via Frank-Wolfe" (SparseFW, 2510.13713): WikiText
perplexity with the criterion's mask ("none") and with Frank-Wolfe's ("fw"), no reconstruction, 256 sequences of 2,048
tokens of C4, 2,000 iterations.
"""

import pandas as pd

from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY

_RESULTS = {
    "LLaMA-7B": {
        "sparsegpt": [
            (2.86, 7.24, 12.61, 9.17),
            (1.24, 6.82, 11.69, 8.66),
            (0.48, 6.72, 11.32, 8.55),
            (0.37, 6.83, 11.41, 8.71),
        ],
        "wanda": [
            (3.56, 7.25, 12.77, 9.28),
            (1.33, 6.82, 11.54, 8.70),
            (0.51, 6.68, 11.25, 8.56),
            (0.38, 6.79, 12.01, 8.72),
        ],
        "magnitude": [
            (8.08, 17.29, 49.67, 23.78),
            (2.37, 7.83, 15.73, 9.66),
            (0.63, 6.88, 11.77, 8.77),
            (0.46, 6.98, 11.96, 8.85),
        ],
    },
    "OPT-125M": {
        "sparsegpt": [
            (0.019, 36.35, 54.93, 33.12),
            (0.008, 31.94, 45.75, 29.91),
            (0.006, 31.57, 45.52, 29.81),
            (0.004, 30.86, 44.61, 29.45),
        ],
        "wanda": [
            (0.032, 39.00, 56.27, 34.62),
            (0.008, 31.55, 46.17, 29.89),
            (0.006, 31.18, 45.47, 29.67),
            (0.004, 30.59, 44.80, 29.33),
        ],
        "magnitude": [
            (0.121, 193.36, 276.15, 141.01),
            (0.010, 36.06, 49.15, 31.63),
            (0.008, 35.56, 48.17, 31.75),
            (0.005, 33.76, 46.84, 30.88),
        ],
    },
}
_GAP = {
    "OPT-125M": {
        "sparsegpt": [(0.006, 0.0083, 0.0090, 0.0065), (0.004, 0.0078, 0.0083, 0.0061)],
        "wanda": [(0.006, 0.0080, 0.0088, 0.0061), (0.004, 0.0076, 0.0082, 0.0058)],
        "magnitude": [(0.008, 0.0109, 0.0115, 0.0125), (0.005, 0.0102, 0.0111, 0.0099)],
    },
    "LLaMA-7B": {
        "sparsegpt": [(0.48, 2.30, 2.29, 1.99), (0.37, 2.53, 2.60, 2.31)],
        "wanda": [(0.51, 2.23, 2.29, 1.98), (0.38, 2.48, 2.86, 2.31)],
        "magnitude": [(0.63, 2.42, 2.72, 2.21), (0.46, 2.55, 3.03, 2.40)],
    },
}
_ACCURACY = {
    "LLaMA-7B": {
        "sparsegpt": [(55.49,), (54.76,), (54.94,), (55.07,)],
        "wanda": [(54.24,), (55.14,), (56.22,), (55.94,)],
        "magnitude": [(46.93,), (52.43,), (54.65,), (53.85,)],
    },
    "OPT-125M": {
        "sparsegpt": [(38.00,), (37.80,), (37.58,), (37.77,)],
        "wanda": [(37.73,), (37.50,), (37.89,), (37.24,)],
        "magnitude": [(37.30,), (37.69,), (37.85,), (37.26,)],
    },
}
DENSE = {"LLaMA-7B": {"wikitext2": 5.68, "accuracy": 60.00}, "OPT-125M": {"wikitext2": 27.66, "accuracy": 37.75}}
PRUNABLE = {"OPT-125M": 12 * (4 * 768**2 + 2 * 768 * 3072), "LLaMA-7B": 32 * (4 * 4096**2 + 3 * 4096 * 11008)}
_HALVES = {
    "attention": (32.82, 30.15, 29.97, 29.64),
    "MLP": (30.69, 29.23, 28.89, 28.73),
    "both": (36.35, 31.94, 31.57, 30.86),
}
BLOCKS = {"OPT-125M": 12, "LLaMA-7B": 32}
WINDOWS, WINDOW = 256, 1024

_REFINED_MODELS = ("Gemma2-9B", "Yi-1.5-9B", "DeepSeek-7B", "Qwen2.5-7B", "Qwen2.5-14B", "LLaMA-3.1-8B")
_REFINED = {  # (pattern, criterion): mask as chosen, refined
    ("50%", "wanda"): ((11.19, 6.58, 7.79, 8.45, 7.11, 10.09), (10.67, 6.58, 7.89, 8.35, 7.10, 10.21)),
    ("50%", "ria"): ((11.19, 6.71, 7.90, 8.54, 7.01, 9.88), (10.77, 6.53, 7.93, 8.22, 6.98, 9.95)),
    ("60%", "wanda"): ((16.46, 11.38, 11.44, 13.47, 10.87, 21.53), (14.83, 10.56, 11.99, 12.44, 10.28, 17.97)),
    ("60%", "ria"): ((17.17, 14.37, 11.87, 12.86, 9.78, 19.14), (15.07, 10.67, 12.41, 11.66, 9.65, 18.16)),
    ("2:4", "wanda"): ((17.41, 11.58, 11.76, 14.40, 11.37, 24.82), (15.81, 10.61, 11.73, 14.16, 11.82, 20.45)),
    ("2:4", "ria"): ((16.78, 11.27, 12.04, 13.46, 10.98, 23.7), (15.83, 10.35, 11.91, 13.42, 11.20, 21.31)),
}


def _table(numbers: dict, methods: list[str], columns: list[str]) -> pd.DataFrame:
    rows = [
        {"model": model, "criterion": criterion, "method": method, **dict(zip(columns, row, strict=True))}
        for model, criteria in numbers.items()
        for criterion, lines in criteria.items()
        for method, row in zip(methods, lines, strict=True)
    ]
    return pd.DataFrame(rows)


METHODS = ["LR", "BR", "BR+GP", "BR+GP+CR"]
RESULTS = _table(_RESULTS, METHODS, ["error", "wikitext2", "ptb", "c4"])
CALIBRATION_AND_TEST = _table(_GAP, ["BR+GP", "BR+GP+CR"], ["calibration", "wikitext2", "ptb", "c4"])
HALVES = pd.DataFrame(
    [
        {"part": part, "method": method, "increase": 100 * (value / DENSE["OPT-125M"]["wikitext2"] - 1)}
        for part, values in _HALVES.items()
        for method, value in zip(METHODS, values, strict=True)
    ]
)
ACCURACY = _table(_ACCURACY, METHODS, ["accuracy"])
MODELS = ("OPT-125M", "LLaMA-7B")


def _overlap() -> pd.DataFrame:
    errors, texts = (table.set_index(["model", "criterion", "method"]) for table in (CALIBRATION_AND_TEST, RESULTS))
    both = pd.DataFrame(
        {CALIBRATION_ERROR: errors["calibration"], HELD_OUT_ERROR: errors["c4"], PERPLEXITY: texts["c4"]}
    )
    with_cr, without = (both.xs(method, level="method") for method in ("BR+GP+CR", "BR+GP"))
    change = (100 * (with_cr / without - 1)).reset_index()
    ratio = change["model"].map({name: PRUNABLE[name] / BLOCKS[name] / (WINDOWS * WINDOW) for name in MODELS})
    known = {"weights": change["model"].map(PRUNABLE), "samples": WINDOWS, "ratio": ratio}
    return change.assign(**known).melt(["model", "criterion", *known], var_name="measure")


OVERLAP = _overlap()
REFINED = pd.DataFrame(
    [
        {"model": model, "pattern": pattern, "criterion": criterion, "none": before, "fw": after}
        for (pattern, criterion), (plain, refined) in _REFINED.items()
        for model, before, after in zip(_REFINED_MODELS, plain, refined, strict=True)
    ]
)
