"""One block of a 7-billion-parameter Llama on an accelerator: seconds, memory, share of the card's peak, and whether it
gives what the CPU gives. By hand, minutes; needs no network.

    python benchmarks/gpu.py                          # on a CUDA card
    python benchmarks/gpu.py --device cpu --tiny      # a rehearsal anywhere

First the card's own products of large matrices, in each precision. Then the lab's model by several recipes, here and on
the CPU: masks and perplexity beside each other. Then a random Llama of two blocks of LLaMA-7B's shape in bfloat16, its
weights pruned by several recipes from as many tokens as 2406.15524 has (128 windows of 2,048); every recipe gets a row:
seconds of a block by stage, most memory held, and the products in its solver or its sums over the time they took, as a
share of the measured peak. Products are counted: three times those of the block's forward for each pass of training,
and one multiplication and addition for each entry of a Gram matrix's upper triangle and token. Last, what a whole model
of 32 blocks would take for 2406.15524's 10 epochs: a projection from one block, not a measurement.
"""

import argparse
import time
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import anatomy
from analysis.models.load import load_model
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.streams.streams import advance, open_streams
from analysis.text.load import load_tokens
from analysis.windows import Windows

EPOCHS, PAPER_EPOCHS, PAPER_BLOCKS = 2, 10, 32
COMPARED = ("magnitude-50% LR", "wanda-50% LR", "sparsegpt-50% LR", "wanda-2:4 ridge", "wanda-50% BR+GP[epochs=2]")
TIMED = (
    "wanda-50% LR",
    "sparsegpt-50% LR",
    "wanda-50% BR+GP[{},compute=bf16]",
    "wanda-50% BR+GP[{},compute=tf32]",
    "wanda-50% BR+GP[{},compute=bf16,unit=sub-block]",
    "wanda-50% BR+GP+CR[{},compute=bf16]",
)


@dataclass(frozen=True)
class Size:
    """Of the random model and its windows, and of the matrices whose product is the card's peak."""

    hidden: int = 4096
    inner: int = 11008
    heads: int = 32
    vocabulary: int = 32000
    windows: int = 128
    length: int = 2048
    product: int = 8192


TINY = Size(hidden=64, inner=172, heads=4, vocabulary=97, windows=4, length=32, product=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small matrices, to see that it runs")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "gpu: no CUDA device here; --device cpu --tiny rehearses without one\n")
    device, size = torch.device(given.device), TINY if given.tiny else Size()
    peaks = {word: peak(word, size.product, device) for word in ("float32", "tf32", "bf16")}
    print(f"{card(device)}, torch {torch.__version__}")
    print("products: " + ", ".join(f"{word} {tera:.1f} TFLOP/s" for word, tera in peaks.items()), flush=True)
    if device.type != "cpu":
        print(pd.DataFrame([compared(text, device) for text in COMPARED]).to_string(index=False), flush=True)
    print()
    recipes = [text.format(f"epochs={EPOCHS}") for text in TIMED if device.type == "cuda" or "tf32" not in text]
    rows = []
    for text in recipes:
        rows.append(block(text, size, device, peaks))
        print(
            "  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items() if name != "recipe"),
            "",
            text,
            flush=True,
        )
    print(f"\nprojected to {PAPER_BLOCKS} blocks and {PAPER_EPOCHS} epochs, minutes:")
    for row in rows:
        print(f"  {projected(row) / 60:8.1f}  {row['recipe']}")


def card(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device}, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def peak(word: str, width: int, device: torch.device) -> float:
    """TFLOP/s of the product of two square matrices, the best of five turns of ten."""
    torch.set_float32_matmul_precision("high" if word == "tf32" else "highest")
    dtype = torch.bfloat16 if word == "bf16" else torch.float32
    a, b = torch.randn(2, width, width, device=device, dtype=dtype)
    fastest = min(seconds(lambda: [a @ b for _ in range(10)], device) for _ in range(5))
    torch.set_float32_matmul_precision("highest")
    return 10 * 2 * width**3 / fastest / 1e12


def seconds(work, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compared(text: str, device: torch.device) -> dict[str, object]:
    """The lab's model by a recipe on the CPU and on the device: share of equal mask entries, and perplexities."""
    results = []
    for where in (torch.device("cpu"), device):
        model = load_model("lab", device=str(where))
        calibration = load_tokens("lab:stories", model, samples=4, length=128)
        held_out = load_tokens("lab:stories/held-out", model, samples=8, length=128)
        pruned = prune(model, text, calibration, measure=False)
        masks = torch.cat([mask.flatten().cpu() for mask in pruned.masks.values()])
        results.append((masks, perplexity(pruned.model, held_out).perplexity))
    (masks, near), (others, far) = results
    return {
        "recipe": text,
        "equal mask entries": float((masks == others).double().mean()),
        "perplexity CPU": near,
        "perplexity here": far,
    }


def random_llama(size: Size, device: torch.device) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=2,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.length,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def block(text: str, size: Size, device: torch.device, peaks: dict[str, float]) -> dict[str, object]:
    """One row: the second block's seconds by stage and what they were worth."""
    recipe, model = Recipe.of(text), random_llama(size, device)
    ids = torch.randint(1, size.vocabulary, (size.windows, size.length), generator=torch.Generator().manual_seed(0))
    windows = Windows(ids, torch.ones_like(ids, dtype=torch.bool), "random", {"source": "random"})
    cost = prune(model, recipe, windows).tables["cost"]
    visits = cost[cost.unit >= 0]
    spent = visits.groupby("stage").seconds.sum() / 2
    sums, solve = spent.get("statistics", 0.0), spent.get("solve", 0.0)
    trained = visits[visits.stage == "solve"].trainable_parameters.sum() / 2
    word = "bf16" if recipe.solver.compute == "bf16" else "tf32" if recipe.solver.compute == "tf32" else "float32"
    turns = trained / sum(p.numel() for p in model.model.layers[0].parameters())  # CR trains a block more than once
    forward = forward_flops(model, windows)
    row = {
        "recipe": text,
        **{stage: spent.get(stage, 0.0) for stage in ("statistics", "mask", "solve", "advance")},
        "GiB": visits.peak_memory_mib.max() / 1024,
        "solve share": 3 * EPOCHS * turns * forward / solve / peaks[word] / 1e12 if solve else float("nan"),
        "sums share": gram_flops(model, windows) / sums / peaks["float32"] / 1e12
        if recipe.criterion.name == "sparsegpt"
        else float("nan"),
    }
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def forward_flops(model: nn.Module, windows: Windows) -> float:
    """Of one block's forward on all windows, counted on the first."""
    found = anatomy(model)
    streams = open_streams(model, found, "first", windows.subset(1), apart=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        advance([found.blocks[0].module], 0, streams.recording, streams.dense)
    return counter.get_total_flops() * len(windows)


def gram_flops(model: nn.Module, windows: Windows) -> float:
    """Of the upper triangles of one block's Gram matrices; matrices that share an input share one."""
    widths = [matrix.module.weight.shape[1] for matrix in anatomy(model).blocks[0].matrices]
    hidden, inner = min(widths), max(widths)
    return windows.tokens * (3 * hidden * (hidden + 1) + inner * (inner + 1))


def projected(row: dict) -> float:
    """Seconds of a whole model of the papers' depth and epochs, by this block."""
    return PAPER_BLOCKS * (row["statistics"] + row["mask"] + row["advance"] + row["solve"] * PAPER_EPOCHS / EPOCHS)


if __name__ == "__main__":
    main()
