"""The `analysis` command (also `python -m analysis`): arguments in, a report out, a mistake as one message.

    analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories --samples 32 --length
    128 --out out

This file holds the arguments and the error handling; the verbs are in `analysis.commands`. No torch is loaded here.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from analysis import storage
from analysis.commands.common import jsonable
from analysis.errors import AnalysisError, UsageError

EXIT_CODES = """exit codes:
  0    done
  2    wrong arguments: a count, a name, a recipe, a path of the wrong kind
  3    model missing, broken or not supported; replay error above the tolerance
  4    text missing, empty, binary or too short; calibration and held-out overlap
  5    sparsity contract broken, or numbers not finite
  6    a folder or file cannot be written, read or trusted; disk full
  7    a notebook failed
  130  interrupted (Ctrl-C); repeat the same `analysis prune` to resume
  1    anything else, with a traceback: a bug"""

SOURCES = """a SOURCE is text to draw token windows from:
  lab:stories            a register of the embedded lab (`analysis list sources`); no download
  stories.txt            a file: .txt or .utf8, .jsonl with a text field, .parquet with a text column
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


RESUMING = ("prune", "figures", "lab", "data")


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UsageErrors, so that they look like every other mistake."""

    def __init__(self, *args, **options):
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str):
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; only a bug raises."""
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # read when torch loads: threads that spin starve each other on a busy machine
    try:
        args = build_parser().parse_args(argv)
        with redirect_stdout(sys.stderr):  # stdout carries the report alone
            report = args.run(args)
        print(json.dumps(jsonable(report.document), indent=2) if args.json else report.text, flush=True)
        if report.failure:
            raise report.failure
    except AnalysisError as error:
        return _fail(error)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not storage.is_foreseen(error):
            raise
        return _fail(storage.as_store_error(error))
    except KeyboardInterrupt:
        print(
            (
                "interrupted; finished work is kept: repeat the same command to resume"
                if argv[0] in RESUMING
                else "interrupted"
            ),
            file=sys.stderr,
        )
        return 130
    return 0


def _fail(error: AnalysisError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def build_parser() -> Parser:
    """All verbs."""
    parser = Parser(
        prog="analysis",
        description="Prune a language model, reconstruct it, and see what that buys or costs.",
        epilog=EXIT_CODES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add_prune(verbs)
    _add_check(verbs)
    _add_evaluate(verbs)
    _add_data(verbs)
    _add_figures(verbs)
    _add_list(verbs)
    _add_lab(verbs)
    return parser


def _add_verb(verbs, name: str, run: Callable, summary: str, examples: str, more: str = "") -> Parser:
    """A verb with its summary, examples, notes and `--json`."""
    epilog = "\n\n".join(part for part in ("examples:\n" + examples, more, EXIT_CODES) if part)
    verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog)
    verb.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else there")
    verb.set_defaults(run=run)
    return verb


def _add_model(verb: Parser) -> None:
    verb.add_argument(
        "model",
        metavar="MODEL",
        help="a lab model (`analysis list models`), a folder, or a hub id, optionally @revision",
    )
    _add_device(verb)


def _add_device(verb: Parser) -> None:
    verb.add_argument(
        "--device", default="auto", help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps; default auto"
    )
    verb.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="default float32")


def _add_windows(verb: Parser, samples_help: str, seed_help: str, length: int | None = None) -> None:
    """Which windows of a text; `length` is their default length, None = it must be given."""
    verb.add_argument("--samples", type=int, metavar="N", help=samples_help)
    told = "tokens per window; at most the model's context" + (f"; default {length}" if length else "")
    verb.add_argument("--length", type=int, required=length is None, default=length, metavar="L", help=told)
    verb.add_argument("--seed", type=int, default=0, metavar="S", help=seed_help)
    verb.add_argument(
        "--separator",
        metavar="SEP",
        help=r"text between the documents of a .txt file, such as '<|endoftext|>' or '\n\n'",
    )
    verb.add_argument(
        "--mode",
        choices=("stream", "crop", "documents"),
        help=(
            "stream: documents joined by a boundary token and cut into consecutive windows (default; hub:c4: crop); "
            "crop: a random crop of a random document; documents: one document per window, padded"
        ),
    )


def _add_prune(verbs) -> None:
    verb = _add_verb(
        verbs,
        "prune",
        _lazy("prune", "run"),
        "prune a model by a recipe and write it, its tables and a summary",
        '  analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories \\\n     '
        ' --samples 32 --length 128 --out out/wanda\n  analysis prune ./my-llama --recipe "sparsegpt-2:4 LR"'
        ' --calibration "notes.txt[:80%]" --held-out "notes.txt[80%:]" \\\n      --held-out wiki=hub:wikitext2'
        ' --samples 128 --length 1024 --seed 1 --out out/notes\n  analysis prune lab --recipe "magnitude-50%'
        ' BR+GP+CR[lr=2e-3,epochs=20]" ...   (`analysis list recipes`)\n  analysis prune lab --recipe "wanda-50% BR"'
        ' --added self --added-samples 32 --task lab:story-ending ...\n  analysis prune lab --recipe "flap-neurons-50%'
        ' LIAR+GP" --shrink ...',
        SOURCES + "\n\nAn interrupted run resumes when the same command is repeated.",
    )
    _add_model(verb)
    verb.add_argument("--recipe", metavar="TEXT", help='criterion, pattern and method, such as "wanda-50%% BR+GP"')
    verb.add_argument("--recipe-file", type=Path, metavar="TOML", help="the recipe as a TOML file instead")
    verb.add_argument("--calibration", required=True, metavar="SOURCE", help="text that masks and reconstruction see")
    verb.add_argument(
        "--held-out",
        required=True,
        action="append",
        metavar="[LABEL=]SOURCE",
        help="text they never see; may be given several times, LABEL names it in the tables",
    )
    _add_windows(
        verb,
        "calibration windows; default 128",
        "of the windows drawn, and of masks and shuffling unless the recipe has its own `[seed=N]`; default 0",
    )
    verb.set_defaults(samples=128)
    verb.add_argument(
        "--held-out-samples", type=int, metavar="N", help="windows per held-out text; default as many as --samples"
    )
    verb.add_argument(
        "--added",
        metavar="SOURCE",
        help=(
            "text whose windows are put behind the calibration windows; masks see them only with `[added=all]` in the"
            " recipe"
        ),
    )
    verb.add_argument("--added-samples", type=int, default=0, metavar="N", help="windows of it")
    verb.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="multiple-choice task for both models (`analysis list tasks`); may be given several times",
    )
    verb.add_argument("--documents", type=int, default=100, metavar="N", help="questions per task; default 100")
    verb.add_argument(
        "--shrink",
        action="store_true",
        help=(
            "cut removed heads and neurons out: a smaller, faster model in DIR/shrunk, measured (recipes of whole"
            " structures)"
        ),
    )
    verb.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser(),
        required=True,
        metavar="DIR",
        help="a new or empty folder, or that of the interrupted run",
    )


def _add_check(verbs) -> None:
    verb = _add_verb(
        verbs,
        "check",
        _lazy("check", "check"),
        "replay a model block by block, compare with its own forward, and list its prunable matrices",
        "  analysis check lab\n  analysis check ./my-llama --text notes.txt --length 512",
        "The replay error of a block is relative: |replayed - true| / |true| over its outputs. Above the tolerance"
        " (1e-5 in float32)\nthe model would be pruned wrongly, so pruning refuses it too.",
    )
    _add_model(verb)
    verb.add_argument("--text", metavar="SOURCE", help="text to replay; default random tokens, some of them padded")
    verb.add_argument("--length", type=int, default=128, metavar="L", help="tokens per window of the text; default 128")


def _add_evaluate(verbs) -> None:
    verb = _add_verb(
        verbs,
        "evaluate",
        _lazy("evaluate", "evaluate"),
        "measure the perplexity of a model on texts, and its accuracy on tasks",
        "  analysis evaluate lab --text lab:stories --length 128 --samples 200\n"
        "  analysis evaluate out/wanda/model --text 'notes.txt[80%:]' --text wiki=hub:wikitext2 --length 1024 --json\n"
        "  analysis evaluate lab --task lab:story-ending --task questions.jsonl --documents 200",
        SOURCES,
    )
    _add_model(verb)
    verb.add_argument(
        "--text",
        default=[],
        action="append",
        metavar="[LABEL=]SOURCE",
        help="text to measure on; may be given several times",
    )
    verb.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="multiple-choice task (`analysis list tasks`); may be given several times",
    )
    verb.add_argument("--documents", type=int, default=100, metavar="N", help="questions per task; default 100")
    _add_windows(verb, "windows per text; default all", "which windows and questions are drawn; default 0", length=128)


def _add_data(verbs) -> None:
    from analysis.text.generation import OPTIONS

    data = verbs.add_parser("data", help="look at texts, and write some", description="Look at texts, and write some.")
    data = data.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    verb = _add_verb(
        data,
        "describe",
        _lazy("data", "describe"),
        "say what a model meets in a text, and how far it is from another one",
        "  analysis data describe lab:recipes --against lab:stories\n  analysis data describe self:temperature=0.8"
        " --model lab --against lab:mixed --json\n  analysis data describe 'notes.txt[:80%]' --model ./my-llama"
        " --against hub:wikitext2 --samples 128 --length 1024",
        "Blocks are compared by the second moments S of their outputs' hidden states: |S - S'| / |S'|, S' of the other"
        ' text.\nA lab register that names no half is read as in `analysis prune`: SOURCE "train", --against'
        ' "held-out".\n\n' + SOURCES,
    )
    verb.add_argument("source", metavar="SOURCE", help="the text")
    verb.add_argument(
        "--model", default="lab", metavar="MODEL", help="who reads it: a lab model, a folder, or a hub id; default lab"
    )
    _add_device(verb)
    verb.add_argument("--against", metavar="SOURCE", help="another text, to compare it with")
    _add_windows(verb, "windows of each text; default 64", "which windows are drawn; default 0", length=128)
    verb.set_defaults(samples=64)
    verb = _add_verb(
        data,
        "generate",
        _lazy("data", "generate"),
        "let a model write texts, as the source `self` does",
        "  analysis data generate lab --texts 64 --out own.jsonl\n  analysis data generate ./my-llama --texts 512"
        ' --settings "language=en,top-k=50" --seed 1 --out own.jsonl --device cuda',
        "settings, as OPTION=VALUE,...:\n"
        + "\n".join(f"  {name:12} {meaning}" for name, meaning in OPTIONS.items())
        + "\n\nTexts are kept, and an interrupted command goes on when it is repeated.",
    )
    _add_model(verb)
    verb.add_argument("--texts", type=int, required=True, metavar="N", help="how many")
    verb.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser(),
        required=True,
        metavar="FILE.jsonl",
        help="one text a line; its provenance is put beside it",
    )
    verb.add_argument(
        "--settings",
        default="",
        metavar="OPTIONS",
        help='such as "temperature=0.8,top-p=0.95"; default those of Shin et al. 2024',
    )
    verb.add_argument("--seed", type=int, default=0, metavar="S", help="of the texts; default 0")


def _add_figures(verbs) -> None:
    verb = _add_verb(
        verbs,
        "figures",
        _lazy("figures", "figures"),
        "run the notebooks and draw the figures, reusing results that are stored",
        "  analysis figures\n  analysis figures --only 01_compounding_error --set EPOCHS=5",
    )
    verb.add_argument("--preset", default="lab", help="a preset of notebooks/suite.toml; default lab")
    verb.add_argument("--only", action="append", metavar="NAME", help="this notebook only; may be given several times")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a notebook parameter; may be given several times",
    )
    verb.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="where figures go; default figures/ for the lab preset as it stands, else data/runs/figures/PRESET",
    )


def _add_list(verbs) -> None:
    verb = _add_verb(
        verbs,
        "list",
        _lazy("list", "list_things"),
        "list models, text sources, tasks, recipes or stored runs",
        "  analysis list models\n  analysis list recipes",
    )
    verb.add_argument("what", choices=("models", "sources", "tasks", "recipes", "runs"))


def _add_lab(verbs) -> None:
    from analysis.training import decoder, encoder, finetune

    lab = verbs.add_parser(
        "lab", help="train the embedded lab's models", description="Train the embedded lab's models."
    )
    lab = lab.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    resuming = "An interrupted training continues from its checkpoint when the same command is repeated."
    train = _add_verb(
        lab,
        "train",
        _lazy("lab", "lab_train"),
        "train a lab decoder on the lab's mixed stream and write it with its tokenizer and training card",
        "  analysis lab train --out my-decoder --tokens 5000000\n  analysis lab train --hidden 128 --blocks 12 --device"
        " cuda",
        resuming,
    )
    decoder.add_arguments(train)
    masked = _add_verb(
        lab,
        "encoder",
        _lazy("lab", "lab_encoder"),
        "train a lab encoder to fill in masked words of the lab's mixed stream",
        "  analysis lab encoder --out my-encoder --tokens 2000000\n  analysis lab encoder --hidden 128 --masked 0.15"
        " --device cuda",
        resuming,
    )
    encoder.add_arguments(masked)
    tune = _add_verb(
        lab,
        "finetune",
        _lazy("lab", "lab_finetune"),
        "fine-tune an encoder on labelled examples: a class, a score, or a span of a passage",
        "  analysis lab finetune lab/encoder examples:truth --out my-truth --examples 20000\n  analysis lab finetune"
        " ./my-bert 'examples:train.tsv[:90%]' --held-out 'examples:train.tsv[90%:]' --learning-rate 1e-4",
        "Examples without end are read once, a table as often as --examples asks. " + resuming,
    )
    finetune.add_arguments(tune)


def _lazy(module: str, name: str) -> Callable:
    """A verb that is imported when it is run."""

    def run(args: argparse.Namespace):
        from importlib import import_module

        return getattr(import_module(f"analysis.commands.{module}"), name)(args)

    return run
