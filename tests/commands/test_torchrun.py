"""`analysis prune` in several processes: one speaks and writes, one error ends all, and what was finished is kept."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from analysis import distributed
from analysis.cli import main
from analysis.errors import UsageError
from analysis.pruning import loop
from tests.helpers.ranks import ended, start
from tests.helpers.world import arguments

TRAINED = "wanda-50% BR+GP[epochs=2,batch=3]"


def call(*commands: list[str]) -> int:
    """`analysis` as rank N is given it, the last for all further ranks."""
    return main(commands[min(int(os.environ["RANK"]), len(commands) - 1)])


def fail_at(visit: int, how: str, command: list[str]) -> int:
    """`analysis`, rank 1 being killed, or never answering again, in one of its visits."""
    do = loop._visit

    def fails(state, at):
        if at.index == visit and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL) if how == "killed" else time.sleep(600)
        do(state, at)

    loop._visit = fails
    return main(command)


def read(out: Path) -> dict:
    """The tensors of the saved model."""
    return {name: tensor for file in (out / "model").glob("*.safetensors") for name, tensor in load_file(file).items()}


def said(logs: Path) -> list[str]:
    return [path.read_text() for path in sorted(logs.iterdir())]


@pytest.mark.slow
def test_the_main_rank_alone_speaks_and_writes(small_world, pruned, tmp_path):
    out = tmp_path / "out"
    assert ended(start(2, call, arguments(small_world, out), logs=tmp_path / "logs")) == [0, 0]
    main_said, other_said = said(tmp_path / "logs")
    assert "final-block error" in main_said and "summary" in main_said and other_said == ""
    summary = json.loads((out / "summary.json").read_text())
    assert summary["provenance"]["ranks"] == 2
    assert summary["request"] == json.loads((pruned / "summary.json").read_text())["request"]
    alone = read(pruned)
    assert all(tensor.equal(alone[name]) for name, tensor in read(out).items())
    assert (out / "blocks.csv").read_text() == (pruned / "blocks.csv").read_text()


@pytest.mark.slow
def test_ranks_of_a_streamed_model_read_what_the_main_one_wrote(small_world, pruned, tmp_path):
    command = arguments(small_world, tmp_path / "out", placement="streamed")
    assert ended(start(2, call, command, logs=tmp_path / "logs")) == [0, 0], said(tmp_path / "logs")
    alone, found = (read(folder) for folder in (pruned, tmp_path / "out"))
    assert alone.keys() == found.keys() and all(tensor.equal(alone[name]) for name, tensor in found.items())


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_other_ranks_resume_it(small_world, tmp_path):
    out, alone = tmp_path / "out", tmp_path / "alone"
    command = arguments(small_world, out, recipe=TRAINED)
    assert ended(start(2, fail_at, 2, "killed", command, logs=tmp_path / "killed")) == [9, -signal.SIGKILL]
    main_said, other_said = said(tmp_path / "killed")
    assert main_said.count("error:") == 1 and "rank 0 of 2: another rank has ended" in main_said
    assert "Traceback" not in main_said and other_said == ""
    assert len(list((out / ".checkpoint").glob("visit-*"))) == 2

    assert ended(start(3, call, command, logs=tmp_path / "resumed")) == [0, 0, 0]
    assert "resuming" in said(tmp_path / "resumed")[0]
    assert json.loads((out / "summary.json").read_text())["provenance"]["ranks"] == 3
    assert main(arguments(small_world, alone, recipe=TRAINED)) == 0
    once = read(alone)
    for name, tensor in read(out).items():
        assert tensor.ne(0).equal(once[name].ne(0)) and float((tensor - once[name]).abs().max()) <= 1e-6


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_waited_for_as_long_as_is_said(small_world, tmp_path):
    command = arguments(small_world, tmp_path / "out", rank_timeout=15)
    main_rank, other = start(2, fail_at, 1, "silent", command, logs=tmp_path / "logs")
    assert ended([main_rank]) == [9]
    assert "gave no answer within 15 s" in said(tmp_path / "logs")[0]
    other.kill()


@pytest.mark.slow
def test_ranks_that_are_asked_for_different_runs_are_refused(small_world, tmp_path):
    out = tmp_path / "out"
    commands = arguments(small_world, out), arguments(small_world, out, seed=1)
    assert ended(start(2, call, *commands, logs=tmp_path / "seeds")) == [2, 2]
    told = "".join(said(tmp_path / "seeds"))
    assert told.count("error:") == 1 and "rank 1 of 2 is not asked for the run of rank 0" in told
    assert "seed is 0 there, 1 here" in told and not out.exists()

    commands = arguments(small_world, out), arguments(small_world, out, model=tmp_path / "nowhere")
    assert ended(start(2, call, *commands, logs=tmp_path / "files")) == [3, 3]
    told = "".join(said(tmp_path / "files"))
    assert told.count("error:") == 1 and "rank 1 of 2: " in told and not out.exists()


@pytest.fixture
def of_two(monkeypatch):
    for word, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(word, str(value))


def test_verbs_that_share_no_work_are_refused(of_two, capsys):
    assert main(["list", "models"]) == 2
    assert "`analysis prune` alone" in capsys.readouterr().err


def test_each_rank_has_a_card_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed._own_device("cuda", 2) == distributed._own_device("auto", 2) == "cuda:1"
    assert distributed._own_device("cpu", 2) == distributed._own_device("auto", 0) == "cpu"
    for device, cards, told in (("cuda", 1, "has 1 CUDA cards"), ("cuda:0", 2, "leave it out"), ("mps", 0, "mps")):
        with pytest.raises(UsageError, match=told):
            distributed._own_device(device, cards)


def test_one_process_alone_shares_with_nobody():
    assert (distributed.rank(), distributed.world(), distributed.main()) == (0, 1, True)
    assert distributed.own(range(3)) == [0, 1, 2] and distributed.total(1.5, 2) == [1.5, 2]
    assert distributed.everyones("x") == ["x"] and distributed.join("auto") == "auto"
