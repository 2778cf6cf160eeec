"""The `analysis` command (also `python -m analysis`): arguments in, a report out, a mistake as one message.

    analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories --samples 32 --length
    128 --out out

This file parses and reports; a verb and its arguments are a module of `analysis.commands`. No torch is loaded here.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress

from analysis import distributed, storage
from analysis.commands import check, data, doctor, evaluate, figures, lab, plan, prune
from analysis.commands import list as listing
from analysis.commands.arguments import EXIT_CODES, Parser
from analysis.commands.common import jsonable, tell
from analysis.errors import AnalysisError, UsageError, out_of_memory

LONGEST_WORD = 600  # letters of one word of a message
RESUMING = ("prune", "figures", "lab", "data")
VERBS = {
    "prune": prune,
    "plan": plan,
    "check": check,
    "evaluate": evaluate,
    "data": data,
    "figures": figures,
    "list": listing,
    "lab": lab,
    "doctor": doctor,
}
ENDINGS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; only a bug raises."""
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # read when torch loads: threads that spin starve each other on a busy machine
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # letters that a terminal cannot show
    try:
        with _endings():
            return _run(argv)
    except KeyboardInterrupt as ending:
        number = signal.Signals(ending.args[0] if ending.args else signal.SIGINT)
        message = ENDINGS[number.name]
        if distributed.asked() and number == signal.SIGTERM:
            message += ", by torchrun where another rank has ended"
        if argv and argv[0] in RESUMING:
            message += "; finished work is kept: repeat the same command to resume"
        if distributed.tells():
            tell(message)
        return 128 + number
    except AnalysisError as error:
        return _fail(out_of_memory(error) or error)
    except Exception as error:
        if (told := out_of_memory(error)) is not None:
            return _fail(told)
        if isinstance(error, OSError):
            return _fail(storage.as_store_error(error))
        raise


def _run(argv: Sequence[str]) -> int:
    parser = build_parser(argv)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        _complete(parser)
    args = parser.parse_args(argv)
    if distributed.asked() and args.run is not prune.run:
        raise UsageError("started as one of several processes (torchrun), of which `analysis prune` alone makes use")
    with redirect_stdout(sys.stderr):  # stdout carries the report alone
        report = args.run(args)
    if not distributed.main():
        return 0
    try:
        print(json.dumps(jsonable(report.document), indent=2) if args.json else report.text, flush=True)
    except OSError as error:
        with suppress(OSError):  # or the interpreter tries once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader (`| head`) has seen enough
            raise storage.as_store_error(error, "standard output") from error
    return _fail(report.failure) if report.failure else 0


def _complete(parser: Parser) -> None:
    """Answer a shell's question and end; nothing where the library is not installed, which only a shell would see."""
    with suppress(ImportError):
        import argcomplete

        argcomplete.autocomplete(parser)


@contextmanager
def _endings() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that it cleans up, unless somebody listens to or ignores them
    already (`nohup`).
    """

    def end(number, frame):
        raise KeyboardInterrupt(number)

    earlier = {}
    for number in (getattr(signal, name) for name in ENDINGS if hasattr(signal, name)):
        with suppress(ValueError):  # in a thread, where Python allows no handlers
            if signal.getsignal(number) is signal.SIG_DFL:
                earlier[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _fail(error: AnalysisError) -> int:
    """Say an error; of a name or number of thousands of letters its beginning and end. Of several ranks that fail the
    first says it.
    """
    message = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:200]} ... {word[0][-60:]}", str(error))
    if distributed.tells(error):
        tell(f"error: {message}")
    return error.exit_code


def build_parser(argv: Sequence[str] = ()) -> Parser:
    """For these arguments: the verb they begin with, or all verbs (for the list of them, and for a wrong one)."""
    parser = Parser(
        prog="analysis",
        description="Prune a language model, reconstruct it, and see what that buys or costs.",
        epilog=EXIT_CODES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    for verb in [argv[0]] if argv and argv[0] in VERBS else VERBS:
        VERBS[verb].add(verbs)
    return parser
