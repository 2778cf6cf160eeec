"""The `analysis` command (also `python -m analysis`): arguments in, a report out, a mistake as one message.

    analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories --samples 32 --length 128 --out out

This file holds the arguments and the error handling; the verbs are in `analysis.commands`. No torch is loaded here.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from analysis.commands.common import jsonable
from analysis.commands.folder import explain
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
  stories.txt[:80%]      a slice by document, in per cent or counts, so that one file serves both sides: [:80%] and [80%:]
                         (quote it: the shell gives brackets a meaning of their own)"""


RESUMING = ("prune", "figures", "lab")


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UsageErrors, so that they look like every other mistake."""

    def __init__(self, *args, **options):
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str):
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; only a bug raises."""
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch loads: threads that spin starve each other on a busy machine
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
        if (known := explain(error)) is None:
            raise
        return _fail(known)
    except KeyboardInterrupt:
        print("interrupted; finished work is kept: repeat the same command to resume" if argv[0] in RESUMING else "interrupted", file=sys.stderr)
        return 130
    return 0


def _fail(error: AnalysisError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def build_parser() -> Parser:
    """All verbs."""
    parser = Parser(prog="analysis", description="Prune a language model, reconstruct it, and see what that buys or costs.", epilog=EXIT_CODES)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add_prune(verbs)
    _add_check(verbs)
    _add_evaluate(verbs)
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
    verb.add_argument("model", metavar="MODEL", help="a lab model (`analysis list models`), a folder, or a hub id, optionally @revision")
    verb.add_argument("--device", default="auto", help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps; default auto")
    verb.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="default float32")


def _add_windows(verb: Parser, samples_help: str, seed_help: str) -> None:
    verb.add_argument("--samples", type=int, metavar="N", help=samples_help)
    verb.add_argument("--length", type=int, required=True, metavar="L", help="tokens per window; at most the model's context")
    verb.add_argument("--seed", type=int, default=0, metavar="S", help=seed_help)
    verb.add_argument("--separator", metavar="SEP", help=r"text between the documents of a .txt file, such as '<|endoftext|>' or '\n\n'")
    verb.add_argument(
        "--mode", choices=("stream", "crop", "documents"),
        help="stream: documents joined by a boundary token and cut into consecutive windows (default; hub:c4: crop); "
        "crop: a random crop of a random document; documents: one document per window, padded",
    )  # fmt: skip


def _add_prune(verbs) -> None:
    verb = _add_verb(
        verbs, "prune", _lazy("prune", "run"), "prune a model by a recipe and write it, its tables and a summary",
        '  analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories \\\n'
        "      --samples 32 --length 128 --out out/wanda\n"
        '  analysis prune ./my-llama --recipe "sparsegpt-2:4 LR" --calibration "notes.txt[:80%]" --held-out "notes.txt[80%:]" \\\n'
        "      --held-out wiki=hub:wikitext2 --samples 128 --length 1024 --seed 1 --out out/notes\n"
        '  analysis prune lab --recipe "magnitude-50% BR+GP+CR[lr=2e-3,epochs=20]" ...   (`analysis list recipes`)',
        SOURCES + "\n\nAn interrupted run resumes when the same command is repeated.",
    )  # fmt: skip
    _add_model(verb)
    verb.add_argument("--recipe", metavar="TEXT", help='criterion, pattern and method, such as "wanda-50%% BR+GP"')
    verb.add_argument("--recipe-file", type=Path, metavar="TOML", help="the recipe as a TOML file instead")
    verb.add_argument("--calibration", required=True, metavar="SOURCE", help="text that masks and reconstruction see")
    verb.add_argument(
        "--held-out", required=True, action="append", metavar="[LABEL=]SOURCE",
        help="text they never see; may be given several times, LABEL names it in the tables",
    )  # fmt: skip
    _add_windows(verb, "calibration windows; default 128", "of the windows drawn, and of masks and shuffling unless the recipe has its own `[seed=N]`; default 0")
    verb.set_defaults(samples=128)
    verb.add_argument("--held-out-samples", type=int, metavar="N", help="windows per held-out text; default as many as --samples")
    verb.add_argument("--out", type=lambda text: Path(text).expanduser(), required=True, metavar="DIR", help="a new or empty folder, or that of the interrupted run")


def _add_check(verbs) -> None:
    verb = _add_verb(
        verbs, "check", _lazy("look", "check"), "replay a model block by block, compare with its own forward, and list its prunable matrices",
        "  analysis check lab\n  analysis check ./my-llama --text notes.txt --length 512",
        "The replay error of a block is relative: |replayed - true| / |true| over its outputs. Above the tolerance (1e-5 in float32)\n"
        "the model would be pruned wrongly, so pruning refuses it too.",
    )  # fmt: skip
    _add_model(verb)
    verb.add_argument("--text", metavar="SOURCE", help="text to replay; default random tokens, some of them padded")
    verb.add_argument("--length", type=int, default=128, metavar="L", help="tokens per window of the text; default 128")


def _add_evaluate(verbs) -> None:
    verb = _add_verb(
        verbs, "evaluate", _lazy("look", "evaluate"), "measure the perplexity of a model on texts",
        "  analysis evaluate lab --text lab:stories --length 128 --samples 200\n"
        "  analysis evaluate out/wanda/model --text 'notes.txt[80%:]' --text wiki=hub:wikitext2 --length 1024 --json",
        SOURCES,
    )  # fmt: skip
    _add_model(verb)
    verb.add_argument("--text", required=True, action="append", metavar="[LABEL=]SOURCE", help="text to measure on; may be given several times")
    _add_windows(verb, "windows per text; default all", "which windows are drawn; default 0")


def _add_figures(verbs) -> None:
    verb = _add_verb(
        verbs, "figures", _lazy("suite", "figures"), "run the notebooks and draw the figures, reusing results that are stored",
        "  analysis figures\n  analysis figures --only 01_compounding_error --set EPOCHS=5",
    )  # fmt: skip
    verb.add_argument("--preset", default="lab", help="a preset of notebooks/suite.toml; default lab")
    verb.add_argument("--only", action="append", metavar="NAME", help="this notebook only; may be given several times")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a notebook parameter; may be given several times")
    verb.add_argument("--figures", type=Path, metavar="DIR", help="where figures go; default figures/ for the lab preset as it stands, else data/runs/figures/PRESET")


def _add_list(verbs) -> None:
    verb = _add_verb(
        verbs, "list", _lazy("suite", "list_things"), "list models, text sources, recipes or stored runs",
        "  analysis list models\n  analysis list recipes",
    )  # fmt: skip
    verb.add_argument("what", choices=("models", "sources", "recipes", "runs"))


def _add_lab(verbs) -> None:
    from analysis.models.pretrain import add_arguments

    lab = verbs.add_parser("lab", help="train the embedded lab's models", description="Train the embedded lab's models.")
    train = _add_verb(
        lab.add_subparsers(metavar="VERB", required=True, parser_class=Parser), "train", _lazy("suite", "lab_train"),
        "train a lab model on the lab's mixed stream and write it with its tokenizer and training card",
        "  analysis lab train --out my-decoder --tokens 5000000\n  analysis lab train --hidden 128 --blocks 12 --device cuda",
        "An interrupted training continues from its checkpoint when the same command is repeated.",
    )  # fmt: skip
    add_arguments(train)


def _lazy(module: str, name: str) -> Callable:
    """A verb that is imported when it is run."""

    def run(args: argparse.Namespace):
        from importlib import import_module

        return getattr(import_module(f"analysis.commands.{module}"), name)(args)

    return run
