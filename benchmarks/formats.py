"""Checkpoints as people have them, pruned, saved, loaded again and evaluated: is the perplexity the same?

    python benchmarks/formats.py [MODEL ...]

Three small ones are made here with the lab's tokenizer: an OPT of one `pytorch_model.bin`, a Llama of `.bin` shards,
and a Llama of bfloat16 safetensors shards, computed in that (`--dtype auto`). Further models are taken by name: a GGUF
file, or smollm2. Each goes through the command line, on a few windows of the lab's stories; prints a row for each:
what its files are, what a run says of them, what is stored, and the perplexity that `prune` measured beside that which
`evaluate` finds of the saved folder. Ends with 1 where the two differ.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import torch
import transformers

from analysis import paths
from analysis.cli import main
from analysis.models.quiet import quiet

TEXT = ["--samples", "4", "--length", "64"]


def made(folder: Path) -> dict[str, list[str]]:
    """Three checkpoints in a folder, and the options that each is pruned with."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(paths.lab() / "decoder", local_files_only=True)
    rows = len(tokenizer)
    size = dict(vocab_size=rows, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128)
    torch.manual_seed(0)
    opt = transformers.OPTForCausalLM(
        transformers.OPTConfig(**size, hidden_size=64, ffn_dim=96, word_embed_proj_dim=64, pad_token_id=0)
    )
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, hidden_size=64, intermediate_size=96))
    places = {name: folder / name for name in ("opt-bin", "llama-bin-shards", "llama-bf16-shards")}
    with quiet():
        for name, model in (("opt-bin", opt), ("llama-bin-shards", llama)):
            model.config.save_pretrained(places[name])
            model.generation_config.save_pretrained(places[name])
        torch.save(opt.state_dict(), places["opt-bin"] / "pytorch_model.bin")
        state, shards = llama.state_dict(), {}
        for number, names in enumerate((list(state)[::2], list(state)[1::2]), start=1):
            file = f"pytorch_model-{number:05}-of-00002.bin"
            torch.save({name: state[name] for name in names}, places["llama-bin-shards"] / file)
            shards |= dict.fromkeys(names, file)
        index = json.dumps({"metadata": {}, "weight_map": shards})
        (places["llama-bin-shards"] / "pytorch_model.bin.index.json").write_text(index)
        llama.to(torch.bfloat16).save_pretrained(places["llama-bf16-shards"], max_shard_size="60KB")
        for place in places.values():
            tokenizer.save_pretrained(place)
    return {str(place): ["--dtype", "auto"] * (name == "llama-bf16-shards") for name, place in places.items()}


def command(*words: str) -> dict:
    """What a verb says with `--json`."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if code := main([*words, "--json"]):
            raise SystemExit(code)
    return json.loads(said.getvalue())


def tried(model: str, options: list[str], out: Path) -> tuple[dict, float, float]:
    """The summary of a run, and its held-out perplexity as measured by it and of the folder that it saved."""
    held_out = "lab:stories/held-out"
    summary = command(
        *("prune", model, "--recipe", "wanda-50% BR+GP[epochs=1]", "--calibration", "lab:stories", "--held-out"),
        *(f"held={held_out}", *TEXT, "--out", str(out), "--save-dtype", "auto", *options),
    )
    again = command("evaluate", str(out / "model"), "--text", f"held={held_out}", *TEXT, *options)
    return summary, summary["perplexity"]["held"]["pruned"], again["perplexity"][0]["perplexity"]


def run(models: list[str]) -> int:
    different = 0
    print("| model | files | says | computed, stored | zeros | pruned perplexity | saved and evaluated |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (model, options) in enumerate((made(Path(folder)) | {name: [] for name in models}).items()):
            summary, measured, read = tried(model, options, Path(folder, f"out{number}"))
            files = [path.name for path in Path(model).glob("*") if path.suffix in (".bin", ".safetensors", ".gguf")]
            saved, notes = summary["saved"], "; ".join(summary["model"]["notes"]) or "-"
            told = f"{saved['computed in']}, {saved['stored in']}"
            print(
                f"| {Path(model).name} | {len(files) or 'package'} {Path(files[0]).suffix if files else ''} | {notes} |"
                f" {told} | {summary['sparsity']['overall']:.2%} | {measured:.6g} | {read:.6g} |",
                flush=True,
            )
            different += abs(read / measured - 1) > 1e-5
    return int(different > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="further models: a folder, a .gguf file, smollm2")
    raise SystemExit(run(parser.parse_args().models))
