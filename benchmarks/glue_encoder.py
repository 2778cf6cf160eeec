"""A small encoder trained here on two tasks of GLUE, then half of its feed-forward neurons removed and repaired: what
is left of its scores.

    python benchmarks/glue_encoder.py ../shared/assets/glue

The folder holds SST-2/ and STS-B/ with train.tsv and dev.tsv. For SST-2 a BERT of 4 blocks and 128 dimensions is made
over 4,000 word pieces of the training sentences and trained from random weights. STS-B has too few pairs to learn from
scratch how two sentences are compared, so its encoder begins as the lab's that scores similarity (--body), which reads
any text letter by letter. Neither has read other text, so the dense scores are far below BERT's. Neurons are then
removed by two criteria, calibrated on 2,048 training examples, repaired in five ways, and scored on the dev sets;
prints Markdown: score, and what share of the dense score is kept. Models go to --out (default: under the runs folder)
and are not trained twice; some minutes of one core each.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from analysis import paths
from analysis.lab.examples import Example
from analysis.measure.scores import score
from analysis.recipe.recipe import Recipe
from analysis.study.job import grid
from analysis.study.sweep import run_study
from analysis.text.example_readers import read_table
from analysis.text.examples import load_examples
from analysis.text.sources import parse_source
from analysis.training.finetune import FinetuneConfig, finetune

REPAIRS = {"none": "LR", "compensate": "compensate", "scale": "scale", "LIAR": "LIAR", "LIAR+GP": "LIAR+GP"}
LENGTH = {"SST-2": 64, "STS-B": 96}


def texts(table: Path) -> Iterator[Example]:
    yield from read_table(parse_source(f"examples:{table}"))[1]


def word_pieces(sentences: list[str], vocabulary: int = 4_000):
    """A lower-case WordPiece tokenizer that writes `[CLS] a [SEP] b [SEP]`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer, core.decoder = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
    )
    core.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    )
    ends = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


def untrained(folder: Path, sentences: list[str]) -> Path:
    """A folder with a BERT of random weights and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    if not (folder / "config.json").exists():
        tokenizer = word_pieces(sentences)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=LENGTH["SST-2"],
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
        )
        tokenizer.save_pretrained(folder)
        BertModel(config).save_pretrained(folder)
    return folder


def trained(body: Path, train: Path, dev: Path, out: Path, length: int, **settings) -> Path:
    """The encoder in `body` fine-tuned on a table, unless it has been."""
    from transformers import AutoTokenizer

    if not (out / "training.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(body)
        sets = [load_examples(f"examples:{table}", tokenizer=tokenizer, length=length) for table in (train, dev)]
        config = FinetuneConfig(length=length, batch=32, warmup=2_000, **settings)
        command = f"python benchmarks/glue_encoder.py ({out.name})"
        finetune(
            body,
            *sets,
            config=config,
            out=out,
            evaluate=lambda model, windows: asdict(score(model, windows)),
            command=command,
            device="cpu",
        )
    return out


def pruned(task: str, model: Path, train: Path, dev: Path, given: argparse.Namespace) -> Iterator[str]:
    """Lines of the table of one task."""
    recipes = {
        (criterion, repair): f"{criterion}-{given.kind}-{given.share:g}% {method}"
        for criterion in given.criteria
        for repair, method in REPAIRS.items()
    }
    jobs = grid(
        model=str(model),
        recipes=list(recipes.values()),
        calibration=f"examples:{train}",
        held_out=[("dev", f"examples:{dev}")],
        samples=given.samples,
        held_out_samples=sum(1 for _ in texts(dev)),
        length=LENGTH[task],
        seeds=given.seeds,
        device="cpu",
    )
    found = run_study(jobs, workers=1).scores.query("split == 'dev'")
    for (criterion, repair), recipe in recipes.items():
        rows = found[found.recipe == str(Recipe.parse(recipe))]
        dense, after = (rows[rows.which == which].score.mean() for which in ("dense", "pruned"))
        error = rows[rows.which == "pruned"].standard_error.mean()
        yield f"| {task} | {criterion} | {repair} | {dense:.3f} | {after:.3f} ± {error:.3f} | {after / dense:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--body", type=Path, default=paths.lab() / "encoder-similarity")
    parser.add_argument("--tasks", nargs="+", default=["SST-2", "STS-B"], choices=("SST-2", "STS-B"))
    parser.add_argument("--criteria", nargs="+", default=["magnitude", "fisher"])
    parser.add_argument("--kind", default="neurons", choices=("neurons", "heads"))
    parser.add_argument("--share", type=float, default=50)
    parser.add_argument("--samples", type=int, default=2_048)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    out = given.out or paths.runs() / "glue-encoder"
    out.mkdir(parents=True, exist_ok=True)
    print(
        f"| task | criterion | repair | dense | {given.share:g} % of {given.kind} removed | kept"
        " |\n|---|---|---|---|---|---|"
    )
    for task in given.tasks:
        sets = [given.data / task / f"{part}.tsv" for part in ("train", "dev")]
        if task == "SST-2":
            body, settings = (
                untrained(out / "untrained", [example.first for example in texts(sets[0])]),
                {"examples": 100_000, "learning_rate": 5e-4},
            )
        else:
            body, settings = given.body, {"examples": 40_000, "learning_rate": 5e-4}
        model = trained(body, *sets, out / task.lower(), LENGTH[task], dropout=0.1, **settings)
        for line in pruned(task, model, *sets, given):
            print(line, flush=True)


if __name__ == "__main__":
    main()
