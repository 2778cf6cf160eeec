"""One-shot pruning side by side with llm-compressor 0.14, on one thread, in one run. By hand; nothing here is a test.

llm-compressor and its pins live in an environment of their own:

    python -m venv peer-env
    peer-env/bin/pip install torch==2.13.0 llmcompressor==0.14.0.1 "transformers>=5.15,<=5.17"
    python benchmarks/against_llm_compressor.py --peer-python peer-env/bin/python

Both sides get the same saved model (a random Llama, 2.9 M prunable weights) and the same 64 x 128 token ids, each run
in a process of its own, the two sides taking turns so that a busy machine troubles both alike. Timed is the one call
that prunes (`analysis.prune`, `llmcompressor.oneshot`), on a loaded model and after an untimed call on two windows;
imports and loading are not. "ours, measured" also takes block errors and perplexities, which llm-compressor does not.

Masks are compared entry by entry: of the two pruned models, where a rounding difference in one block changes the inputs
of all blocks after it, and block by block on equal inputs, where our masks of a block are chosen behind
llm-compressor's own pruned blocks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINDOWS, LENGTH, VOCABULARY = 64, 128, 1000
CRITERIA = ("sparsegpt", "wanda")
SIDES = ("peer", "ours", "ours, measured")
AGREE = "agreement"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-python", required=True, type=Path, help="python of the environment that holds llm-compressor"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pattern", default="50%", help="50%% or N:M, keep N of every M")
    parser.add_argument("--batch", type=int, default=1, help="llm-compressor's batch size (its default is 1)")
    parser.add_argument("--side", choices=(*SIDES, AGREE), help=argparse.SUPPRESS)
    parser.add_argument("--criterion", choices=CRITERIA, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        compare_masks(arguments) if arguments.side == AGREE else run_side(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        results = {(criterion, side): [] for criterion in CRITERIA for side in SIDES}
        for _ in range(arguments.runs):
            for criterion, side in results:
                results[criterion, side].append(spawn(arguments, criterion, side, folder))
        report(results, {criterion: spawn(arguments, criterion, AGREE, folder) for criterion in CRITERIA})


def make_model(folder: Path) -> None:
    """Saves the model, a tokenizer (llm-compressor asks for one even where ids are ready) and the ids."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<unk>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")),
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
    )
    tokenizer.save_pretrained(folder)
    ids = torch.randint(VOCABULARY, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(1))
    (folder / "ids.json").write_text(json.dumps(ids.tolist()))


def spawn(arguments, criterion: str, side: str, folder: str) -> dict:
    """One run in a process of its own; returns what it printed last."""
    python = arguments.peer_python if side == "peer" else sys.executable
    command = [
        python,
        __file__,
        "--peer-python",
        arguments.peer_python,
        "--side",
        side,
        "--criterion",
        criterion,
        "--folder",
        folder,
        "--pattern",
        arguments.pattern,
        "--batch",
        str(arguments.batch),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ANALYSIS_PROGRESS": "0",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{side}, {criterion}: failed\n{done.stderr[-4000:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if side != AGREE:
        print(
            f"{criterion:<10} {side:<16} {result['seconds']:6.2f} s wall {result['processor']:6.2f} s processor  "
            f" sparsity {result['sparsity']:.5f}",
            flush=True,
        )
    return result


def run_side(arguments) -> None:
    """One side, in its own process: an untimed call on two windows, then the timed one."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    ids = json.loads((arguments.folder / "ids.json").read_text())
    prune = peer if arguments.side == "peer" else ours
    for windows in (ids[:2], ids):
        model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
        call = prune(model, windows, arguments)
        start, processor = time.perf_counter(), time.process_time()
        pruned = call()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    from safetensors.torch import save_file

    weights = {
        name: module.weight.detach().contiguous() for name, module in pruned.named_modules() if name.endswith("_proj")
    }
    save_file(weights, arguments.folder / f"{arguments.criterion}-{arguments.side}.safetensors")
    sparsity = float(torch.cat([(weight == 0).flatten() for weight in weights.values()]).float().mean())
    print(json.dumps({"seconds": seconds, "processor": processor, "sparsity": sparsity}))


def compare_masks(arguments) -> None:
    """Share of entries on which both sides agree: of the whole pruned models, and of the worst block on equal
    inputs.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from analysis.masks.choose import choose_mask, wanted_statistics
    from analysis.models.anatomy import anatomy
    from analysis.recipe.recipe import Recipe
    from analysis.streams.collect import collect
    from analysis.streams.streams import advance, open_streams, unit_output
    from analysis.windows import Windows

    torch.set_num_threads(1)
    theirs, ours = (
        load_file(arguments.folder / f"{arguments.criterion}-{side}.safetensors") for side in ("peer", "ours")
    )
    same = torch.cat([((theirs[name] != 0) == (ours[name] != 0)).flatten() for name in ours])
    ids = torch.tensor(json.loads((arguments.folder / "ids.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    recipe, blocks = Recipe.parse(f"{arguments.criterion}-{arguments.pattern} LR"), anatomy(model)
    streams = open_streams(
        model, blocks, "calibration", Windows(ids, torch.ones_like(ids, dtype=torch.bool), "random ids", {})
    )
    worst = 1.0
    for block in blocks.blocks:
        with (
            torch.inference_mode(),
            collect(block.matrices, want=wanted_statistics(recipe.criterion), block=block.name) as collector,
        ):
            collector.mask = streams.mask
            unit_output([block.module], block.index, streams.recording, streams.sparse, slice(None))
        statistics_of, equal, entries = collector.result(), 0, 0
        for matrix in block.matrices:
            chosen = choose_mask(
                recipe.criterion, recipe.pattern, matrix.weight(), statistics_of[matrix.name], torch.Generator()
            )
            equal, entries = (
                equal + int((chosen.mask == (theirs[f"{block.name}.{matrix.name}"] != 0)).sum()),
                entries + chosen.mask.numel(),
            )
            matrix.assign(theirs[f"{block.name}.{matrix.name}"])  # the next block reads what llm-compressor left
        worst = min(worst, equal / entries)
        advance([block.module], block.index, streams.recording, streams.sparse, out=streams.sparse)
    print(json.dumps({"models": float(same.float().mean()), "worst block": worst}))


def ours(model, ids, arguments):
    import torch

    from analysis.pruning.loop import prune
    from analysis.recipe.recipe import Recipe
    from analysis.windows import Windows

    ids = torch.tensor(ids)
    windows = Windows(ids, torch.ones_like(ids, dtype=torch.bool), "random ids", {"tokens": ids.numel()})
    recipe = Recipe.parse(f"{arguments.criterion}-{arguments.pattern} LR")
    return lambda: prune(model, recipe, windows, measure=arguments.side == "ours, measured").model


def peer(model, ids, arguments):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * LENGTH] * len(ids)})
    sparsity, structure = 0.5, "0:0"
    if ":" in arguments.pattern:
        keep, of = map(int, arguments.pattern.split(":"))
        sparsity, structure = 1 - keep / of, f"{of - keep}:{of}"
    options = {"sparsity": sparsity, "mask_structure": structure, "targets": [r"re:.*_proj$"]}
    if arguments.criterion == "sparsegpt":
        modifier = SparseGPTModifier(block_size=128, dampening_frac=0.01, **options)
    else:
        modifier = WandaPruningModifier(**options)
    return lambda: oneshot(
        model=model,
        dataset=data,
        tokenizer=tokenizer,
        recipe=[modifier],
        max_seq_length=LENGTH,
        num_calibration_samples=len(ids),
        shuffle_calibration_samples=False,
        batch_size=arguments.batch,
    )


def report(results: dict, same: dict) -> None:
    """Median wall and processor seconds of each side, their ratio to the peer's, and how far the masks agree.

    Processor time is the fairer clock where other work takes turns on the core.
    """
    print(
        f"\n{'criterion':<10} {'side':<16} {'wall s':>7} {'of peer':>8} {'processor s':>12} {'of peer':>8}"
        f" {'sparsity':>9}"
    )
    for (criterion, side), runs in results.items():
        wall, processor = (statistics.median(run[clock] for run in runs) for clock in ("seconds", "processor"))
        theirs = results[criterion, "peer"]
        other_wall, other_processor = (
            statistics.median(run[clock] for run in theirs) for clock in ("seconds", "processor")
        )
        print(
            f"{criterion:<10} {side:<16} {wall:7.2f} {wall / other_wall:8.2f} {processor:12.2f}"
            f" {processor / other_processor:8.2f} {runs[-1]['sparsity']:9.5f}"
        )
    for criterion, shares in same.items():
        print(
            f"{criterion}: the same mask entries in {shares['models']:.3%} of the whole models, on equal inputs in at"
            f" least {shares['worst block']:.3%} of every block"
        )


if __name__ == "__main__":
    main()
