"""`analysis prune`: from a model and a recipe to a folder with the pruned model, its tables and a summary.

The arguments are a `Job`; everything that can be checked without loading torch is checked first and reported at once.
Then the job is carried out as any other (`study/run.py`), with its checkpoint inside the folder.
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import distributed, paths, storage
from analysis.commands import answers, out_folder
from analysis.commands.arguments import SOURCE_HELP, add_model, add_verb, add_windows
from analysis.commands.common import Problems, Report, label_sources, say, unescape
from analysis.commands.summary import report, summarise, written_tables
from analysis.errors import UsageError
from analysis.models.dtypes import ASKED
from analysis.models.load import PLACEMENTS
from analysis.pruning.checks import save_problem
from analysis.recipe.recipe import Recipe
from analysis.study.job import Contents, Job, job_problems, unpaired

if TYPE_CHECKING:
    from analysis.study.run import Bench, Inputs, Outcome


NOTHING = Report("", {})
"""What a rank has to say that is not the main one."""


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "prune",
        run,
        "prune a model by a recipe and write it, its tables and a summary",
        '  analysis prune lab --recipe "wanda-50% BR+GP" --calibration lab:stories --held-out lab:stories \\\n     '
        ' --samples 32 --length 128 --out out/wanda\n  analysis prune ./my-llama --recipe "sparsegpt-2:4 LR"'
        ' --calibration "notes.txt[:80%]" --held-out "notes.txt[80%:]" \\\n      --held-out wiki=hub:wikitext2'
        ' --samples 128 --length 1024 --seed 1 --out out/notes\n  analysis prune lab --recipe "magnitude-50%'
        ' BR+GP+CR[lr=2e-3,epochs=20]" ...   (`analysis list recipes`)\n  analysis prune lab --recipe "wanda-50% BR"'
        ' --added self --added-samples 32 --task lab:story-ending ...\n  analysis prune lab --recipe "flap-neurons-50%'
        ' LIAR+GP" --shrink ...',
        SOURCE_HELP + "\n\nAn interrupted run resumes when the same command is repeated.",
    )
    add_model(verb)
    add_job(verb)
    verb.add_argument(
        "--anyway", action="store_true", help="begin although the forecast says that memory cannot be enough"
    )
    verb.add_argument(
        "--rank-timeout",
        type=float,
        default=distributed.PATIENCE,
        metavar="SECONDS",
        help=(
            "of several processes that torchrun starts: how long one waits for the others; default"
            f" {distributed.PATIENCE:g}"
        ),
    )
    verb.add_argument(
        "--out",
        type=paths.expanded,
        required=True,
        metavar="DIR",
        help="a new or empty folder, or that of the interrupted run",
    )


def add_job(verb, *, required: bool = True) -> None:
    """The arguments that say what is done, but for the model; required: whether texts must be named."""
    _add_recipe(verb)
    _add_texts(verb, required)
    _add_measures(verb)
    _add_added(verb)
    _add_tasks(verb)
    _add_result(verb)


def _add_recipe(verb) -> None:
    verb.add_argument("--recipe", metavar="TEXT", help='criterion, pattern and method, such as "wanda-50%% BR+GP"')
    verb.add_argument("--recipe-file", type=paths.expanded, metavar="TOML", help="the recipe as a TOML file instead")


def _add_texts(verb, required: bool) -> None:
    """The texts of both sides, and the windows drawn from them."""
    verb.add_argument(
        "--calibration", required=required, metavar="SOURCE", help="text that masks and reconstruction see"
    )
    verb.add_argument(
        "--held-out",
        required=required,
        action="append",
        metavar="[LABEL=]SOURCE",
        help="text they never see; may be given several times, LABEL names it in the tables",
    )
    add_windows(
        verb,
        "calibration windows; default 128",
        "of the windows drawn, and of masks and shuffling unless the recipe has its own `[seed=N]`; default 0",
        required=required,
    )
    verb.set_defaults(samples=128)
    verb.add_argument(
        "--held-out-samples", type=int, metavar="N", help="windows per held-out text; default as many as --samples"
    )
    verb.add_argument(
        "--validation",
        metavar="SOURCE",
        help=(
            "text that select=held-out and penalty=held-out choose on; by default a quarter of the calibration windows"
            " is set aside for it"
        ),
    )


def _add_measures(verb) -> None:
    """What is measured on held-out text besides, and how often."""
    verb.add_argument(
        "--full-test",
        action="store_true",
        help="perplexity of both models on every window of the held-out texts too, as the papers take it",
    )
    verb.add_argument(
        "--held-out-every",
        type=every,
        default="auto",
        metavar="N|end|auto",
        help=(
            "after every how many epochs the held-out error of gradient units is taken; end: after the last; auto"
            " (default): every epoch where that is cheap, else at the end"
        ),
    )


def _add_added(verb) -> None:
    """Text put behind the calibration text, and what becomes of windows on both sides."""
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
        "--drop-overlap",
        action="store_true",
        help="drop held-out windows that repeat calibration text, however many; by default more than a few are refused",
    )


def _add_tasks(verb) -> None:
    verb.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="multiple-choice task for both models (`analysis list tasks`); may be given several times",
    )
    verb.add_argument("--documents", type=int, default=100, metavar="N", help="questions per task; default 100")


def _add_result(verb) -> None:
    """What is made of the pruned model: where it is, what is cut out, how it is stored."""
    verb.add_argument(
        "--shrink",
        action="store_true",
        help=(
            "cut removed heads, neurons and blocks out: a smaller, faster model in DIR/shrunk, measured (recipes of"
            " whole structures)"
        ),
    )
    verb.add_argument(
        "--placement",
        choices=("auto", *PLACEMENTS),
        default="auto",
        help=(
            "where the weights are; streamed: in files but for the blocks at work, with the same result, for models"
            " that memory does not hold; resident: in memory; default auto: streamed where the forecast says that only"
            " so they fit"
        ),
    )
    verb.add_argument(
        "--save-dtype",
        default="auto",
        choices=ASKED,
        help=(
            "what the saved weights are stored in, whatever they were computed in (--dtype); default auto: as in the"
            " model's own files"
        ),
    )


def run(args: argparse.Namespace) -> Report:
    """The verb. Raises: AnalysisError of every kind, each before any work where it can be known.

    Of several ranks all prune; the main one holds the folder, writes and reports, the others then give nothing.
    """
    from analysis.study.run import Bench

    if not args.rank_timeout > 0:
        raise UsageError(f"--rank-timeout must be a number of seconds above 0, got {args.rank_timeout:g}")
    device, contents = distributed.join(args.device, args.rank_timeout), Contents()
    with distributed.together():
        job = read_job(args, contents)
        request = {"schema": storage.SCHEMA} | job.identity(contents)

    from analysis.study.fit import look_ahead, memory_told  # loads torch, which a wrong argument need not wait for

    if args.save_dtype != "auto":
        request["save dtype"] = args.save_dtype
    distributed.agree({"--out": str(args.out), **request, "libraries": storage.libraries()})
    asked = answers.questions(request)
    state = distributed.on_main(lambda: found(args.out, request))
    if state == "complete":
        distributed.leave()
        if not distributed.main():
            return NOTHING
        differ = storage.other_libraries(out_folder.read(args.out / out_folder.SUMMARY)["versions"])
        say(f"{args.out} holds these results already{f', of other libraries ({differ})' if differ else ''}")
        return report(args.out, answers.add(job, request, asked, args.out))
    if state == "resume":
        say(f"resuming the run in {args.out}")
    job = replace(job, device=device)
    ahead = distributed.on_main(lambda: look_ahead(job, say, anyway=args.anyway, choose=args.placement == "auto"))
    job = replace(ahead, device=device)
    bench = Bench(reuse=False, say=say)
    with ExitStack() as held, memory_told(job):
        distributed.on_main(lambda: held.enter_context(out_folder.claimed(args.out, request, state)))
        with distributed.together():
            inputs = bench.prepare(job)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in inputs.dense.model.parameters())
        room = weights * (1 + job.shrink + job.recipe.unit.width)  # checkpoints keep blocks at each of their visits
        distributed.on_main(lambda: out_folder.check_room(args.out, room))
        job = replace(job, tasks=(), shrink=job.shrink and distributed.main())
        outcome = work(job, bench, inputs, args.out)
        distributed.leave()
        if not distributed.main():
            return NOTHING
        summary = write(job, request, inputs, outcome, args.out)
        if asked:
            out_folder.drop_checkpoint(args.out)
            summary = answers.ask(inputs.dense, outcome.pruned.model, asked, args.out, summary)
        out_folder.release(args.out)
    return report(args.out, summary)


def found(out: Path, request: dict) -> str:
    """What the folder is to this request, once what a kill interrupted there is finished. Raises: StoreError."""
    out_folder.settle(out)
    return out_folder.state(out, request)


def read_job(args: argparse.Namespace, contents: Contents) -> Job:
    """The job that the arguments ask for, with model, texts, tasks and the folder looked at.

    Raises: the one thing that is wrong, or UsageError listing all of them.
    """
    problems = Problems()
    values = job_values(args, problems)
    problems.errors += job_problems(values, flag, contents)
    if values["recipe"] is not None and (problem := save_problem(values["recipe"])):
        problems.add(f"--recipe: {problem}")
    if args.added is not None and args.added_samples == 0:
        problems.add(unpaired(flag))
    elif values["recipe"] is not None:
        check_seen(problems, values["recipe"], args.added is not None)
    with problems.catch():
        out_folder.check_place(args.out)
        if not out_folder.is_complete(args.out):
            out_folder.check_writable(args.out)
    problems.raise_any()
    return Job(**values)


def job_values(args: argparse.Namespace, problems: Problems) -> dict[str, Any]:
    """The fields of a `Job` as the arguments give them; a recipe that cannot be read is None, and a problem."""
    recipe = None
    with problems.catch():
        recipe = read_recipe(args.recipe, args.recipe_file)
        recipe = replace(recipe, seed=recipe.seed or max(args.seed, 0))
    values: dict[str, Any] = {
        "recipe": recipe,
        "held_out": tuple(label_sources("--held-out", args.held_out, problems).items()),
        "tasks": tuple(args.task),
        "separator": unescape(args.separator),
    }
    same = (
        "model",
        "calibration",
        "samples",
        "held_out_samples",
        "length",
        "seed",
        "dtype",
        "device",
        "mode",
        "bos",
        "drop_overlap",
    )
    more = ("added", "added_samples", "documents", "shrink", "validation", "held_out_every", "full_test")
    values["placement"] = "resident" if args.placement == "auto" else args.placement
    return values | {name: getattr(args, name) for name in (*same, *more)}


def every(text: str) -> int | str:
    """A number of epochs, or a word; what is wrong with it is said with everything else."""
    return int(text) if text.isdecimal() and len(text) < 19 else text


def flag(name: str) -> str:
    """The argument that sets a field of `Job`."""
    return "--task" if name == "tasks" else "--" + name.replace("_", "-")


def check_seen(problems: Problems, recipe: Recipe, added: bool) -> None:
    """Added windows need somebody who sees them, and somebody who shall see them needs windows."""
    if not added and recipe.added == "all":
        problems.add(
            f"recipe {recipe}: added=all says who sees added windows, and none are added; give --added and"
            " --added-samples"
        )
    if added and recipe.added == "solver" and not recipe.changes_weights:
        problems.add(
            f"--added: nothing would see these windows, since {recipe.method} solves nothing; add added=all to the"
            " recipe's first word, or use another method"
        )


def read_recipe(text: str | None, file: Path | None) -> Recipe:
    """A recipe from its short text or from a TOML file; exactly one of them.

    Raises: UsageError, RecipeError.
    """
    if text is not None and file is None:
        return Recipe.parse(text)
    if text is not None or file is None:
        raise UsageError("give the recipe once: --recipe TEXT or --recipe-file FILE")
    return Recipe.from_file(file)


def work(job: Job, bench: "Bench", inputs: "Inputs", out: Path) -> "Outcome":
    """Carry the job out, resuming from the folder's checkpoint. Raises: AnalysisError."""
    calibration = inputs.calibration
    added = f" ({calibration.added} of them added)" if calibration.added else ""
    say(f"pruning {job.model}: {job.recipe}, {len(calibration)} windows{added} of {calibration.length} tokens")
    return bench.carry_out(job, inputs, out / out_folder.CHECKPOINT)


def write(job: Job, request: dict, inputs: "Inputs", outcome: "Outcome", out: Path) -> dict:
    """Write every file of a finished run, the summary last; returns that."""

    pruned, dtype, saved = outcome.pruned, request.get("save dtype", "auto"), {}
    out_folder.place_model(out, lambda path: saved.update(pruned.save(path, dtype)))
    if outcome.shrunk is not None:
        from analysis.models.format import format_of
        from analysis.models.save import save_shrunk

        smaller, tokenizer = outcome.shrunk, pruned.tokenizer
        written = format_of(smaller, pruned.origin, dtype)
        out_folder.place_model(out, lambda path: save_shrunk(smaller, tokenizer, path, written), out_folder.SHRUNK)
    for name in written_tables():
        storage.write(out / f"{name}.csv", out_folder.csv(name, outcome.tables[name]))
    return out_folder.place_summary(out, summarise(job, request, inputs, outcome) | {"saved": saved})
