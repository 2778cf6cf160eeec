"""Which dtype a model is computed in: named, its checkpoint's own, or the default by size, which is said."""

import pytest
import torch

from analysis.errors import UsageError
from analysis.models import dtypes, hub
from analysis.models.dtypes import choose_dtype, resolved_dtype, told_dtype
from analysis.models.load import load_model
from analysis.models.quiet import quiet
from analysis.study.job import Contents, Job
from tests.helpers.families import tiny

SMALL, LARGE = {"F32": 10, "BF16": 1000}, {"F32": 10, "BF16": 2 * 10**9}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bf16") / "llama"
    with quiet():
        tiny("llama").to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("sizes", "asked", "chosen"),
    [
        (SMALL, None, "float32"),
        (SMALL, "auto", "bfloat16"),
        (SMALL, "float16", "float16"),
        (LARGE, None, "bfloat16"),
        (LARGE, "float32", "float32"),
        ({"F16": 3, "F32": 2}, "auto", "float16"),
        ({"F64": 3}, "auto", "float32"),
        ({"I64": 3}, "auto", "float32"),
    ],
)
def test_the_dtype_is_named_or_that_of_most_parameters(sizes, asked, chosen):
    assert choose_dtype(sizes, asked) == chosen


def test_what_nobody_named_is_said():
    assert told_dtype("m", SMALL, None) == told_dtype("m", LARGE, "float32") == ""
    assert told_dtype("m", LARGE, None) == (
        "model 'm': 2,000.0 million parameters in bfloat16, the checkpoint's own dtype, the default above 1 billion"
        " (--dtype, dtype=, names another); 3.73 GiB, twice that while it is pruned"
    )
    assert "0.0 million parameters in bfloat16, the checkpoint's own dtype; 0.00 GiB" in told_dtype("m", SMALL, "auto")


def test_a_model_is_loaded_in_its_own_dtype(saved, capfd):
    assert load_model(saved, device="cpu").dtype == torch.float32 and capfd.readouterr().err == ""
    assert load_model(saved, device="cpu", dtype="auto").dtype == torch.bfloat16
    assert "parameters in bfloat16, the checkpoint's own dtype; 0.00 GiB" in capfd.readouterr().err
    for wrong in ("int8", 7, [], torch.int8):
        with pytest.raises(UsageError, match="unknown; possible are auto, float32, bfloat16, float16"):
            load_model(saved, dtype=wrong)


def test_a_large_model_is_loaded_in_its_own_dtype_by_default_and_that_is_said(saved, capfd, monkeypatch):
    monkeypatch.setattr(dtypes, "LARGE", 100)
    assert load_model(saved, device="cpu").dtype == torch.bfloat16
    assert "the default above 1e-07 billion" in capfd.readouterr().err
    assert resolved_dtype(saved, None) == "bfloat16"
    assert load_model(saved, device="cpu", dtype="float32").dtype == torch.float32 and capfd.readouterr().err == ""


def test_jobs_are_known_by_the_dtype_that_they_come_to(saved):
    asked = {"recipe": "wanda-50% LR", "calibration": "lab:stories", "samples": 1, "length": 8}
    digests = {
        dtype: Job(model=saved, **asked, **({} if dtype == "none" else {"dtype": dtype})).digest()
        for dtype in ("none", None, "float32", "auto", "bfloat16")
    }
    assert digests["none"] == digests[None] == digests["float32"] != digests["auto"] == digests["bfloat16"]
    job = Job(model=saved, **asked)
    assert Job(**job.to_dict()) == job and job.identity(Contents())["dtype"] == "float32"


def test_a_model_of_the_hub_is_asked_after_and_not_downloaded(monkeypatch):
    monkeypatch.setattr(dtypes, "parameters_on_hub", lambda name: LARGE)
    assert resolved_dtype("org/name", None) == "bfloat16"
    monkeypatch.undo()

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.setattr(hub, "TIMEOUT", 1)
    assert resolved_dtype("org/none-of-this-name", None) == "float32", "loading says that it cannot be had"
