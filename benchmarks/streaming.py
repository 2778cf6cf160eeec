"""Streamed beside resident: a model four times larger than the memory a process may take, time, and memory by depth.

    python benchmarks/streaming.py [limited] [time] [depth]     (default: all three, a few minutes of one core)

Random Llamas stored in bfloat16, computed in float32, made in a temporary folder. `limited`: a child process that may
take a quarter of the model's float32 size as data (RLIMIT_DATA: heap and private writable mappings, torch's own
included) prunes, reconstructs, measures perplexity, saves, and loads the result back. `time`: the same run in both
placements, alternating, the least of two. `depth`: the largest resident set of a child in both placements as blocks are
added.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = "wanda-50% BR+GP[epochs={epochs},batch=1]"
MIB = 2**20


def write_llama(folder: Path, blocks: int, hidden: int, inner: int, vocabulary: int = 512) -> int:
    """A random Llama in a file per block; gives its size in float32 in bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Any:
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(torch.bfloat16)

    square, wide = (hidden, hidden), (inner, hidden)
    shapes = {f"self_attn.{letter}_proj": square for letter in "qkvo"}
    shapes |= {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": wide[::-1]}
    ones = lambda: torch.ones(hidden, dtype=torch.bfloat16)
    places: dict[str, str] = {}
    size = 0
    for index in range(blocks + 1):
        if index == blocks:
            tensors = {name: random(vocabulary, hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")}
            tensors["model.norm.weight"] = ones()
        else:
            at = f"model.layers.{index}."
            tensors = {f"{at}{name}.weight": random(*shape) for name, shape in shapes.items()}
            tensors |= {f"{at}{name}.weight": ones() for name in ("input_layernorm", "post_attention_layernorm")}
        name = f"model-{index + 1:05d}-of-{blocks + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
        size += sum(2 * tensor.nbytes for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return size


def child(job: dict[str, Any]) -> dict[str, Any]:
    """One run in this process, limited to so many bytes of data where the job says so; what it took and found."""
    import torch

    from analysis.models.load import load_model
    from analysis.pruning.loop import prune
    from analysis.windows import Windows

    if limit := job.get("limit"):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)

    def windows(count: int, seed: int, label: str) -> Windows:
        ids = torch.randint(512, (count, job["length"]), generator=torch.Generator().manual_seed(seed))
        return Windows(ids, torch.ones_like(ids, dtype=torch.bool), label, {"source": label})

    start, began = time.process_time(), time.perf_counter()
    dense = load_model(job["model"], dtype="float32", device="cpu", placement=job["placement"])
    held_out = {"other": windows(job["windows"], 1, "other")}
    pruned = prune(dense, RECIPE.format(epochs=job["epochs"]), windows(job["windows"], 0, "calibration"), held_out)
    pruned.save(job["out"])
    seconds = {"cpu": time.process_time() - start, "wall": time.perf_counter() - began}
    again = load_model(job["out"], dtype="float32", device="cpu", placement=job["placement"])
    blocks = pruned.tables["blocks"]
    last = blocks[(blocks.block == blocks.block.max()) & (blocks.kind == "total") & (blocks.split == "calibration")]
    return {
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "perplexity": pruned.tables["perplexity"].perplexity.tolist(),
        "relative_error": last.relative_error.tolist(),
        "again": again.placement,
    }


def run(**job: Any) -> dict[str, Any]:
    """What a child process gives. Raises RuntimeError with what it said where it fails."""
    command = [sys.executable, __file__, "child", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def limited(place: Path) -> None:
    size = write_llama(place / "large", blocks=200, hidden=512, inner=2048)
    common: dict[str, Any] = {
        "model": str(place / "large"),
        "windows": 2,
        "length": 64,
        "epochs": 1,
        "limit": size // 4,
    }
    found = run(**common, placement="streamed", out=str(place / "large-pruned"))
    seconds = found["seconds"]
    print(
        f"limited: {size / MIB:,.0f} MiB of weights in float32, {size // 4 / MIB:,.0f} MiB allowed: pruned,"
        f" reconstructed, measured, saved and loaded back in {seconds['wall']:.0f} s ({seconds['cpu']:.0f} s of the"
        f" processor), largest resident set {found['peak'] / MIB:,.0f} MiB; perplexities {found['perplexity']}"
    )
    try:
        run(**common, placement="resident", out=str(place / "large-resident"))
        print("limited: resident fits too")
    except RuntimeError as error:
        print(f"limited: resident under the same limit ends with: {str(error).strip().splitlines()[-1][:200]}")


def timed(place: Path) -> None:
    size = write_llama(place / "fits", blocks=8, hidden=512, inner=1536)
    least: dict[str, dict[str, float]] = {}
    for _ in range(2):
        for placement in ("resident", "streamed"):
            out = str(place / f"fits-{placement}")
            common = {"model": str(place / "fits"), "windows": 16, "length": 128, "epochs": 3}
            found = run(**common, placement=placement, out=out)
            before = least.get(placement, found["seconds"])
            least[placement] = {key: min(before[key], value) for key, value in found["seconds"].items()}
    ratio = {key: least["streamed"][key] / least["resident"][key] for key in ("cpu", "wall")}
    print(f"time: {size / MIB:,.0f} MiB in float32, 16 x 128 tokens, 3 epochs: {json.dumps(least)}")
    print(
        f"time: streamed takes {ratio['cpu']:.3f} of the resident run's processor time, {ratio['wall']:.3f} of its time"
    )


def depth(place: Path) -> None:
    for blocks in (4, 8, 16, 32):
        model = place / f"deep-{blocks}"
        size = write_llama(model, blocks=blocks, hidden=512, inner=1536)
        peaks = {
            placement: run(
                model=str(model), windows=2, length=64, epochs=1, placement=placement, out=f"{model}-{placement}"
            )["peak"]
            for placement in ("resident", "streamed")
        }
        words = ", ".join(f"{placement} {peak / MIB:,.0f} MiB" for placement, peak in peaks.items())
        print(f"depth {blocks}: {size / MIB:,.0f} MiB in float32; largest resident set: {words}", flush=True)


PARTS = {"limited": limited, "time": timed, "depth": depth}

if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        for part in sys.argv[1:] or PARTS:
            with tempfile.TemporaryDirectory() as folder:
                PARTS[part](Path(folder))
