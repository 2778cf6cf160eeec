"""Check every family of the installed transformers with a tiny random model: docs/families.csv and docs/families.md.

    python docs/families.py             all of them (some four minutes of one core)
    python docs/families.py gemma2 t5   the rows of these alone

A model is built from its family's config made small, saved, loaded as `analysis check` loads it and checked as it
checks. Where that works its halves are run apart and it is pruned by `wanda-50% BR+GP`, one epoch, two windows.
"""

import argparse
import contextlib
import io
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers as tf
from tiny_configs import BLOCKS, tiny_config
from torch import nn
from transformers.models.auto import modeling_auto as auto

from analysis.commands.check import replay_and_matrices
from analysis.errors import AnalysisError
from analysis.models.anatomy import Anatomy, anatomy, anatomy_of_copy
from analysis.models.load import load_model
from analysis.models.quiet import quiet
from analysis.models.replay import Recording, random_windows, record, replay_error, run
from analysis.models.sub_blocks import check_halves, matrix_inputs
from analysis.pruning.loop import prune
from analysis.windows import Windows

DOCS = Path(__file__).resolve().parent
RECIPE = "wanda-50% BR+GP[epochs=1]"
LARGEST = 8_000_000  # parameters of a model that still counts as tiny
SECONDS = 30  # of processor time, for one model
COLUMNS = ("family", "kind", "model", "outcome", "blocks", "matrices", "halves", "pruned", "reason")
KINDS = {
    "decoder": (tf.AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "encoder": (tf.AutoModel, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "masked": (tf.AutoModelForMaskedLM, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "classifier": (tf.AutoModelForSequenceClassification, auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "pictures and text": (tf.AutoModelForImageTextToText, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
}
OTHERS = {  # known by their config alone: nothing is built
    "sequence to sequence": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
}

# --- one model -------------------------------------------------------------------------------------------------------


class OutOfTime(BaseException):
    """No `except Exception` holds it up."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """OutOfTime after so many seconds of processor time."""

    def late(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class NotBuilt(Exception):
    """transformers makes no tiny model of a family, or the model needs other inputs than text."""


def built(family: str, kind: str) -> nn.Module:
    """A tiny random model. Raises NotBuilt, saying why, where transformers makes none or it does not read text."""
    try:
        config = tiny_config(family)
        if kind == "decoder" and getattr(config, "is_decoder", None) is False:
            config = tiny_config(family, is_decoder=True)
        if kind == "classifier" and getattr(config, "pad_token_id", None) is None:
            config = tiny_config(family, pad_token_id=0)
        with torch.device("meta"):
            count = sum(value.numel() for value in KINDS[kind][0].from_config(config).parameters())
        if count > LARGEST:
            raise NotBuilt(f"not tiny: {count:,} parameters")
        torch.manual_seed(0)
        model = KINDS[kind][0].from_config(config).eval().requires_grad_(False)
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(f"cannot be built small ({type(error).__name__}: {_words(error)})") from error
    for name, value in model.named_parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=0.2)
        elif not name.endswith(("A_log", "dt_bias")):
            value.data.add_(torch.randn_like(value) * 0.1)
    model.config.use_cache = False
    ids = torch.randint(3, 60, (2, 16))
    try:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception as error:
        raise NotBuilt(f"does not run on text alone ({type(error).__name__}: {_words(error)})") from error
    if not all(bool(v.isfinite().all()) for v in [output[0]] if isinstance(v, torch.Tensor)):
        raise NotBuilt("its random weights give no finite output")
    return model


def _words(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:300]


def checked(family: str, kind: str) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"family": family, "kind": kind}
    with limited(SECONDS), tempfile.TemporaryDirectory() as folder:
        try:
            with _silent():
                _check(row, Path(folder) / family)
        except NotBuilt as error:
            row |= {"outcome": "not built", "reason": str(error)}
        except AnalysisError as error:
            text = str(error).replace(f"model '{Path(folder) / family}': ", "").replace(folder, "FOLDER")
            row |= {"outcome": "refused", "reason": " ".join(text.split())}
        except OutOfTime:
            row |= {"outcome": "fails", "reason": f"more than {SECONDS} seconds"}
        except Exception as error:
            row |= {"outcome": "fails", "reason": f"{type(error).__name__}: {_words(error)}"}
    return row


def _check(row: dict[str, Any], folder: Path) -> None:
    family, kind = row["family"], row["kind"]
    if kind not in KINDS:
        row["model"] = OTHERS[kind][family]
        described_only(family, folder)
        load_model(folder, device="cpu", dtype="float32")
        raise RuntimeError("was loaded")
    names = KINDS[kind][1][family]
    row["model"] = names if isinstance(names, str) else names[0]
    model = built(family, kind)
    row["model"] = type(model).__name__
    try:
        model.save_pretrained(folder)
    except Exception as error:
        raise NotBuilt(f"cannot be saved ({type(error).__name__}: {_words(error)})") from error
    dense = load_model(folder, device="cpu", dtype="float32")
    document = replay_and_matrices(dense)
    row["blocks"], row["matrices"] = len(document["replay"]), len(document["matrices"])
    if not document["ok"]:
        worst = max(document["replay"], key=lambda entry: entry["relative_error"])
        row |= {"outcome": "refused", "reason": f"replay is not exact: {worst['name']} {worst['relative_error']:.1g}"}
        return
    parts, windows = anatomy(dense.model), random_windows(dense.model, count=2)
    try:
        check_halves(parts, record(dense.model, parts, windows), slice(None))
        row["halves"] = "yes"
    except AnalysisError as error:
        row |= {"halves": "no", "reason": " ".join(str(error).split())}
    row["outcome"] = "works"
    if kind != "classifier":
        ids = windows.ids[:, :32]
        text = Windows(ids, torch.ones_like(ids, dtype=torch.bool), "random tokens", {"source": "random tokens"})
        pruned = prune(dense, RECIPE, text, measure=False)
        row["pruned"] = counted(dense.model, pruned.model, parts)
        _prove_rows(parts, record(dense.model, parts, text))
        own = replay_error(pruned.model, anatomy_of_copy(parts, pruned.model), record(dense.model, parts, text))
        if not own.relative_error.max() <= 1e-5:
            raise RuntimeError(f"the pruned model is not its stream: {own.relative_error.max():.1g}")


def counted(dense: nn.Module, pruned: nn.Module, parts: Anatomy) -> str:
    """ "exact" if every matrix lost half of the weights of each of its rows and no other 2-D parameter of the model
    changed; else what is wrong."""
    own = set()
    for name, matrix in parts.matrices():
        stored = f"{name.removesuffix(matrix.name)}{matrix.parameter_name}"
        own |= {stored, f"{stored}_bias"}  # an expert's bias is a row of a table
        zeros = matrix.part(pruned.get_parameter(stored)).eq(0).sum(1)
        if not bool((zeros == matrix.columns // 2).all()):
            raise RuntimeError(f"{name}: {zeros.tolist()} zeros of {matrix.columns}")
    for name, value in dense.named_parameters():
        if name not in own and value.ndim > 1 and not torch.equal(value, pruned.get_parameter(name)):
            raise RuntimeError(f"{name} changed")
    return "exact"


def _prove_rows(parts: Anatomy, recording: Recording) -> None:
    """RuntimeError where what a matrix reads for a window depends on the other windows of its batch: then its rows are
    not those of the window's tokens.
    """
    hidden, one = recording.hidden, slice(1, 2)
    for block in parts.blocks:
        names = [matrix.name for matrix in block.matrices]
        both = matrix_inputs(block, names, hidden, recording.call(block.index, slice(None)))
        alone = matrix_inputs(block, names, hidden[one], recording.call(block.index, one))
        wrong = [name for name in names if not torch.allclose(both[name][one], alone[name], rtol=1e-3, atol=1e-4)]
        if wrong:
            raise RuntimeError(f"{block.name}: {', '.join(wrong)} read rows of another window")
        hidden = run(block.module, hidden, recording.call(block.index, slice(None)))


def described_only(family: str, folder: Path) -> None:
    """A folder with the family's own config, and weights that stand in: such models are refused by their config."""
    from safetensors.torch import save_file

    try:
        tf.CONFIG_MAPPING[family]().save_pretrained(folder)
    except Exception as error:
        raise NotBuilt(f"no default config ({type(error).__name__}: {_words(error)})") from error
    save_file({str(place): torch.zeros(1, 32768) for place in range(200)}, folder / "model.safetensors")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def asked() -> list[tuple[str, str]]:
    """Every (family, kind) of the installed transformers."""
    pictures = "pictures and text"  # families that are known as nothing else
    pairs = [(family, kind) for kind, (_, names) in KINDS.items() for family in names if kind != pictures]
    known = {family for family, _ in pairs}
    pairs += [(family, pictures) for family in KINDS[pictures][1] if family not in known]
    known = {family for family, _ in pairs}
    for kind, names in OTHERS.items():
        pairs += [(family, kind) for family in names if family not in known]
        known |= set(names)
    return sorted(pairs)


# --- the page --------------------------------------------------------------------------------------------------------

TEXT = """# Families

What `analysis check` says of every family of **transformers {version}**; written by `python docs/families.py`, rows in
[families.csv](families.csv). Another version may have others.

A family is a `model_type`. Of each, one tiny random model is made from its own config ({blocks} blocks, 32 wide, every
kind of layer that the config knows), saved, loaded as `analysis check` loads it, taken apart and replayed on four
windows of random tokens, two of them padded. Where every block's replay is exact (to 1e-5), its halves are run apart,
and the model, unless it classifies, is pruned by `wanda-50% BR+GP` (one epoch, two windows). "Works" means that then
every row of every matrix has lost exactly half of its weights, no other table of weights has changed, and the pruned
model's own forward, block by block, is the stream that its blocks were reconstructed on. It says nothing of how well a
real checkpoint of the family fares, nor of settings that its default config does not have.

As **decoder**: its causal language model. As **encoder**: without a head. As **masked**: an encoder with the head it
was trained with. As **classifier**: fine-tuned to a task. As **pictures and text**: its ForConditionalGeneration, given
text alone. Families of sequence to sequence that transformers knows as none of these are judged by their config.

{counts}

## Works

Halves: whether attention and MLP can be reconstructed one at a time (`unit=sub-block`); blocks and single matrices
always can. Of a mixture of experts two matrices of each of its (here mostly four) experts are counted; where blocks
differ, the number is their mean, rounded down.

{works}

## Refused

{refused}

## Not built

What transformers does not build or run here from a small config and text alone, and what it says.

{not_built}
"""


def page(rows: pd.DataFrame) -> str:
    """The text of docs/families.md."""
    counts = rows.groupby(["kind", "outcome"]).size().unstack(fill_value=0)
    kinds = [kind for kind in (*KINDS, *OTHERS) if kind in counts.index]
    parts = {outcome: rows[rows.outcome == outcome] for outcome in ("works", "refused", "not built", "fails")}
    if len(parts["fails"]):
        raise SystemExit(f"docs: families fail: {', '.join(parts['fails'].family)}")
    shown = [outcome for outcome in parts if outcome in counts]
    return TEXT.format(
        version=tf.__version__,
        blocks=BLOCKS,
        counts=table(("as", *shown), ((kind, *counts.loc[kind, shown]) for kind in kinds)),
        works=table(("family", "as", "matrices in a block", "halves"), _works(parts["works"])),
        refused=table(("why", "families"), _by_reason(parts["refused"])),
        not_built=table(("why", "families"), _by_reason(parts["not built"])),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def _works(rows: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    for family, own in rows.groupby("family", sort=True):
        matrices = dict.fromkeys(int(row.matrices) // int(row.blocks) for row in own.itertuples())
        yield f"`{family}`", ", ".join(own.kind), ", ".join(map(str, matrices)), ", ".join(dict.fromkeys(own.halves))


def _by_reason(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Families with one reason, in one row: without the place that it was found at and the family's own name."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for row in rows.itertuples():
        reason = re.sub(r"^[\w.]+ \(\w+\): ", "", row.reason)
        reason = re.sub(rf"^{re.escape(row.family)}(_\w+)?(:? )", r"it\2", reason).replace("it: ", "")
        reason = re.sub(r"^parameter .* belongs to", "holds parameters that belong to", reason)
        reasons.setdefault(reason, {}).setdefault(row.family, []).append(row.kind)
    for reason, families in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        yield reason, ", ".join(f"`{family}` ({', '.join(kinds)})" for family, kinds in families.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Check all families, or the given ones, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="the rows of these alone are made anew")
    only = parser.parse_args(argv).families
    torch.set_num_threads(1)
    rows = []
    for family, kind in asked():
        if not only or family in only:
            rows.append(checked(family, kind))
            print(*(rows[-1][key] for key in ("family", "kind", "outcome", "reason")), sep=" | ", flush=True)
    write(rows, read_rows() if only else None)
    return 0


def write(rows: Sequence[dict[str, Any]], old: pd.DataFrame | None = None) -> None:
    """Both files, of these rows and those of `old` that they do not make anew."""
    new = pd.DataFrame(rows, columns=COLUMNS)
    if old is not None:
        new = pd.concat([old[~old.family.isin(new.family)], new])
    new = new.sort_values(["family", "kind"])
    new.to_csv(DOCS / "families.csv", index=False, lineterminator="\n")
    (DOCS / "families.md").write_text(page(read_rows()), "utf-8")


def read_rows() -> pd.DataFrame:
    """docs/families.csv, every cell as text."""
    return pd.read_csv(DOCS / "families.csv", dtype=str, keep_default_na=False)


if __name__ == "__main__":
    sys.exit(main())
