"""The `analysis` command (also `python -m analysis`): arguments in, a report out, a mistake as one message.

    analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories --samples 32 --length
    128 --out out

This file parses and reports; a verb and its arguments are a module of `analysis.commands`. No torch is loaded here.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from analysis import storage
from analysis.commands import check, data, evaluate, figures, lab, prune
from analysis.commands import list as listing
from analysis.commands.arguments import EXIT_CODES, Parser
from analysis.commands.common import jsonable
from analysis.errors import AnalysisError

RESUMING = ("prune", "figures", "lab", "data")


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
    for verb in (prune, check, evaluate, data, figures, listing, lab):
        verb.add(verbs)
    return parser
