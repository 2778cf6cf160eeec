"""What the arguments of every verb share: the parser, texts of the help, and options that several verbs take."""

import argparse
from collections.abc import Callable

from analysis.errors import UsageError
from analysis.models.dtypes import ASKED
from analysis.text.sources import BOS, MODES

EXIT_CODES = """exit codes:
  0    done
  2    wrong arguments: a count, a name, a recipe, a path of the wrong kind
  3    model missing, broken or not supported; replay error above the tolerance
  4    text missing, empty, binary or too short; calibration and held-out overlap
  5    sparsity contract broken, or numbers not finite
  6    a folder or file cannot be written, read or trusted; disk full
  7    a notebook failed; figures differ (--check); a name cannot be had (--dry-run); something is ill (doctor)
  8    out of memory
  9    of several processes that share a run (torchrun) one has ended or does not answer; repeat to resume
  130  interrupted (Ctrl-C), 143 by SIGTERM, 129 by SIGHUP; repeat the same `analysis prune` to resume
  1    anything else, with a traceback: a bug"""

SOURCE_HELP = """a SOURCE is text to draw token windows from:
  lab:stories            a register of the embedded lab (`analysis list sources`); no download
  stories.txt            a file: .txt or .utf8; .json, .jsonl, .csv, .tsv, .parquet or .arrow with a column text, or
                         FILE#COLUMN; any of them packed as .gz or .zst; a folder written by save_to_disk
  hub:wikitext2          a dataset of the Hugging Face hub; the only kind that uses the network
  examples:truth         labelled examples, for encoders: sets of the lab, of GLUE, SQuAD, or a table,
                         examples:train.tsv[:80%]
  self                   text the model writes itself, as self:temperature=0.8,top-p=0.95
                         (`analysis data generate --help`)
  lab:stories:0.7+lab:recipes:0.3
                         a mixture by windows; the shares make 1
  stories.txt[:80%]      a slice by document, in per cent or counts, so that one file serves both sides: [:80%]
                         and [80%:]
                         (quote it: the shell gives brackets a meaning of their own)"""


class Once(argparse.Action):
    """Keep a value. An option given twice is a mistake, for the last would win in silence."""

    seen: argparse.Namespace | None = None

    def __call__(self, parser, namespace, values, option_string=None):
        if option_string and self.seen is namespace:
            parser.error(f"{option_string} is given twice, {getattr(namespace, self.dest)} and {values}; give it once")
        self.seen = namespace
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UsageErrors, so that they look like every other mistake."""

    def __init__(self, *args, **options):
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        for word in (None, "store"):
            self.register("action", word, Once)

    def error(self, message: str):
        if len(message) > 1000:
            message = f"{message[:600]} ... {message[-200:]}"
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def add_verb(verbs, name: str, run: Callable, summary: str, examples: str, more: str = "") -> Parser:
    """A verb with its summary, examples, notes and `--json`."""
    epilog = "\n\n".join(part for part in ("examples:\n" + examples, more, EXIT_CODES) if part)
    verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog)
    verb.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else there")
    verb.set_defaults(run=run)
    return verb


def add_model(verb: Parser) -> None:
    """Who is looked at, and where it runs."""
    verb.add_argument(
        "model",
        metavar="MODEL",
        help="a lab or packaged model (`analysis list models`), a folder, a .gguf file, or a hub id[@revision]",
    )
    add_device(verb)


def add_device(verb: Parser) -> None:
    """Where a model runs, and in what numbers."""
    verb.add_argument(
        "--device", default="auto", help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps; default auto"
    )
    verb.add_argument(
        "--dtype",
        choices=ASKED,
        help="auto: the checkpoint's own; default float32, and auto for models of over a billion parameters",
    )


def add_windows(
    verb: Parser, samples_help: str, seed_help: str, length: int | None = None, *, required: bool = True
) -> None:
    """Which windows of a text; `length` is their default length, None = it must be given where it is `required`."""
    verb.add_argument("--samples", type=int, metavar="N", help=samples_help)
    meaning = "tokens per window; at most the model's context" + (f"; default {length}" if length else "")
    verb.add_argument(
        "--length", type=int, required=required and length is None, default=length, metavar="L", help=meaning
    )
    verb.add_argument("--seed", type=int, default=0, metavar="S", help=seed_help)
    verb.add_argument(
        "--separator",
        metavar="SEP",
        help=(
            r"text between the documents of a .txt file, such as '<|endoftext|>' or '\n\n'; none: the file is one text,"
            " as the papers read WikiText-2 (rows are joined by a blank line)"
        ),
    )
    verb.add_argument(
        "--mode",
        choices=MODES,
        help=(
            "stream: documents joined by a boundary token and cut into consecutive windows (default; hub:c4: crop); "
            "crop: a random crop of a random document; documents: one document per window, padded"
        ),
    )
    verb.add_argument(
        "--bos",
        default="auto",
        choices=BOS,
        help=(
            "special tokens; auto: around each document what the tokenizer itself puts there (default); every: every"
            " window begins with the beginning-of-text token besides, for models such as Gemma; none: only a token"
            " between documents"
        ),
    )
