"""How fast self-generated text is written, beside the library's own `generate` at the same batch. By hand, on one
thread.

    python benchmarks/generation.py [MODEL] --batch 32 --device cpu

Ours is everything from a random start token to text on disk: prefixes, filters, sampling, decoding, provenance. The
library samples a batch of random start tokens up to end-of-text or the same length, with the same options, and its
tokens are thrown away. Both count the tokens before end-of-text; they take turns in one process, and medians are
compared.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
from transformers import GenerationConfig

from analysis.models.load import load_model
from analysis.text.generated_files import written
from analysis.text.generation import LONGEST_TEXT


def library(loaded, batch: int, seed: int) -> int:
    """Tokens of one batch by `model.generate`, end-of-text not counted."""
    end = loaded.tokenizer.eos_token_id
    longest = min(loaded.context or LONGEST_TEXT, LONGEST_TEXT)
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_length=longest,
        eos_token_id=end,
        pad_token_id=end or 0,
        use_cache=True,
    )
    torch.manual_seed(seed)
    ids = torch.randint(1, len(loaded.tokenizer), (batch, 1), device=loaded.device)
    found = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return int(((found[:, 1:] == end).cumsum(1) == 0).sum()) + batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="lab")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(given.model, device=given.device)
    rates = {"library": [], "ours": []}
    with tempfile.TemporaryDirectory() as home:
        os.environ["ANALYSIS_HOME"] = home
        ours = written(loaded, f"self:batch={given.batch}")
        calls = {
            "library": lambda run: library(loaded, given.batch, run),
            "ours": lambda run: sum(text.tokens for text in next(ours).texts),
        }
        for run in range(given.runs + 1):
            for name, call in calls.items():
                busy, start = time.process_time(), time.perf_counter()
                tokens = call(run)
                busy, seconds = time.process_time() - busy, time.perf_counter() - start
                if run:  # the first warms up
                    rates[name].append((tokens, tokens / (busy if given.device == "cpu" else seconds)))
    print(
        f"{given.model}, batch {given.batch}, {given.device}: tokens a second"
        f" ({'CPU time' if given.device == 'cpu' else 'wall time'}), {given.runs} batches each"
    )
    for name, found in rates.items():
        told = [rate for _, rate in found]
        print(
            f"{name:>8} {statistics.median(told):9,.0f}   {min(told):,.0f} to {max(told):,.0f}  "
            f" {statistics.mean(n for n, _ in found) / given.batch:6.1f} tokens a text"
        )


if __name__ == "__main__":
    main()
