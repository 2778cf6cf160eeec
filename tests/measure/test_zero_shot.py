"""Zero-shot accuracy through the harness, against log-likelihoods computed by hand, and on everything that cannot be
asked.
"""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import paths
from analysis.cli import main
from analysis.errors import DataError, ModelError, NumericalError, UsageError
from analysis.lab.tasks import TASKS
from analysis.measure import zero_shot as module
from analysis.measure.zero_shot import TaskScore, answers, check_questions, zero_shot
from analysis.models.load import load_model
from analysis.text.tasks import task_items
from tests.helpers.alphabet import END, byte_model, byte_tokenizer

LAB = [f"lab:{name}" for name in TASKS]


@pytest.fixture(scope="module")
def lab():
    return load_model("lab", device="cpu")


@pytest.fixture
def questions(tmp_path):
    rng = random.Random(0)
    word = lambda: "".join(rng.choice("abcdef ") for _ in range(rng.randint(1, 9))).strip() or "a"
    rows = [
        {
            "query": f"{word()} {word()}",
            "choices": sorted({word() for _ in range(rng.randint(2, 5))} | {"x", "yz"}),
            "gold": rng.randint(0, 1),
        }
        for _ in range(30)
    ]
    rows[3]["query"] = "12"
    rows[4]["query"] += "\n"
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def by_hand(model, tokenizer, items) -> list[list[float]]:
    """Each choice alone, unpadded, log-softmax in float64: what follows the query and one space, the query without its
    last white space.
    """
    found = []
    for item in items:
        start = len(tokenizer.encode(item.query.rstrip()))
        found.append([])
        for choice in item.choices:
            ids = torch.tensor([tokenizer.encode(f"{item.query} {choice}")])
            scores = model(input_ids=ids).logits[0].double().log_softmax(-1)
            found[-1].append(sum(float(scores[place - 1, ids[0, place]]) for place in range(start, ids.shape[1])))
    return found


def check_against_hand(model, tokenizer, name, found, documents):
    items = task_items(name, documents=documents)
    assert len(found) == len(items)
    for item, answer, expected in zip(items, found, by_hand(model, tokenizer, items)):
        assert answer.log_likelihoods == pytest.approx(expected, abs=1e-4, rel=1e-5)
        assert answer.right == (max(range(len(expected)), key=lambda place: expected[place]) == item.gold)


@pytest.mark.slow
def test_log_likelihoods_are_those_computed_by_hand(lab):
    for name, found in answers(lab.model, lab.tokenizer, LAB, documents=2).items():
        check_against_hand(lab.model, lab.tokenizer, name, found, 2)


@pytest.mark.slow
def test_a_file_is_answered_as_by_hand_whatever_the_batches(questions):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    found = answers(model, tokenizer, [questions], documents=20)[questions]
    check_against_hand(model, tokenizer, questions, found, 20)
    for batch in (1, 7, 200):
        others = answers(model, tokenizer, [questions], documents=20, batch=batch)[questions]
        for one, other in zip(found, others):
            assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4) and one.right == other.right


@pytest.mark.slow
def test_the_score_is_the_mean_over_questions_with_its_error(questions):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    (score,) = zero_shot(model, tokenizer, [questions], documents=20)
    found, items = answers(model, tokenizer, [questions], documents=20)[questions], task_items(questions, documents=20)
    right = np.array([answer.right for answer in found], dtype=float)
    sizes = np.array([len(item.choices) for item in items])
    assert (score.task, score.documents) == (questions, 20)
    expected = (sizes.mean(), (1 / sizes).mean(), right.mean(), right.std(ddof=1) / 20**0.5)
    assert (score.choices, score.chance, score.accuracy, score.standard_error) == pytest.approx(expected)
    assert zero_shot(model, tokenizer, [questions], documents=99)[0].documents == 30
    assert zero_shot(model, tokenizer, []) == []


@pytest.mark.slow
def test_order_seed_and_repetition(questions):
    model, tokenizer = byte_model(1024), byte_tokenizer(eos_token=END)
    scores = zero_shot(model, tokenizer, ["lab:pronouns", questions], documents=10)
    assert [score.task for score in scores] == ["lab:pronouns", questions]
    assert scores == zero_shot(model, tokenizer, ["lab:pronouns", questions], documents=10)
    first, other = (answers(model, tokenizer, [questions], documents=10, seed=seed)[questions] for seed in (0, 1))
    fewer = answers(model, tokenizer, [questions], documents=6)[questions]  # other batches, so other rounding
    assert (
        first != other
        and len(fewer) == 6
        and all(
            a.right == b.right and a.log_likelihoods == pytest.approx(b.log_likelihoods, abs=1e-4)
            for a, b in zip(fewer, first)
        )
    )


@pytest.mark.slow
def test_a_changed_file_is_read_again(questions):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    before = answers(model, tokenizer, [questions], documents=30)[questions]
    rows = [json.loads(line) for line in Path(questions).read_text("utf-8").splitlines()]
    with open(questions, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row | {"gold": 1 - row["gold"]}) + "\n" for row in rows)
    after = answers(model, tokenizer, [questions], documents=30)[questions]
    assert [answer.log_likelihoods for answer in after] == [answer.log_likelihoods for answer in before]
    assert not any(one.right and other.right for one, other in zip(before, after))


@pytest.mark.slow
def test_model_tokenizer_and_random_state_stay_as_they_are(questions, capfd):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    zero_shot(model, tokenizer, [questions], documents=4)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    zero_shot(model.train(), tokenizer, [questions], documents=5)
    assert model.training and tokenizer.pad_token is None and tokenizer.padding_side == "right"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert (
        random.getstate() == states[0]
        and np.random.get_state()[1].tolist() == states[1]
        and torch.equal(torch.get_rng_state(), states[2])
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_batches_are_small_where_the_vocabulary_is_large(questions, monkeypatch):
    model, sizes = byte_model(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[0]))
    monkeypatch.setattr("analysis.models.logits.LOGITS", 260 * 30 * 5)
    zero_shot(model, byte_tokenizer(eos_token=END), [questions], documents=20)
    assert 5 <= max(sizes) <= 8
    sizes.clear()
    zero_shot(model, byte_tokenizer(eos_token=END), [questions], documents=20, batch=3)
    assert max(sizes) == 3


def test_questions_longer_than_the_context_are_left_out_and_counted(tmp_path):
    model, tokenizer, path = byte_model(16), byte_tokenizer(eos_token=END), tmp_path / "long.jsonl"

    def ask(extra: str, rows: int) -> TaskScore:
        asked = [{"query": "a" * 10, "choices": ["b" * 6 + extra, "c"], "gold": 0}]
        asked += [{"query": f"a{row}", "choices": ["b", "c"], "gold": 0} for row in range(rows)]
        path.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
        return zero_shot(model, tokenizer, [str(path)])[0]

    full, cut = ask("", 2), ask("b", 2)  # 17 tokens, the last of which is only predicted; 18
    assert (full.documents, full.left_out, cut.documents, cut.left_out) == (3, 0, 2, 1)
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[1:]), encoding="utf-8")
    assert cut.accuracy == zero_shot(model, tokenizer, [str(path)])[0].accuracy
    for check in (zero_shot, check_questions):
        with pytest.raises(DataError, match="1 of 2 questions are longer than the model's context of 16 tokens .*17"):
            ask("b", 1)
            check(model, tokenizer, [str(path)])


@pytest.mark.slow
def test_acc_norm_divides_by_the_characters_of_a_choice(questions):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    (score,) = zero_shot(model, tokenizer, [questions], documents=30)
    items, found = task_items(questions, documents=30), answers(model, tokenizer, [questions], documents=30)[questions]
    norms = [
        max(range(len(item.choices)), key=lambda place: answer.log_likelihoods[place] / len(item.choices[place]))
        == item.gold
        for item, answer in zip(items, found)
    ]
    assert norms == [answer.right_norm for answer in found] != [answer.right for answer in found]
    right = np.array(norms, dtype=float)
    assert (score.accuracy_norm, score.standard_error_norm) == pytest.approx(
        (right.mean(), right.std(ddof=1) / 30**0.5)
    )


def test_what_cannot_be_asked_is_refused(questions, tmp_path):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"query": "x", "choices": ["a", "b"], "gold": 2}\n')
    for tasks, error, says in (
        (["lab:story-endings"], UsageError, "did you mean 'story-ending'"),
        ([str(broken)], DataError, "broken.jsonl, line 1: gold is 2"),
        ([questions, questions], UsageError, "given twice"),
    ):
        with pytest.raises(error, match=says):
            zero_shot(model, tokenizer, tasks)
        with pytest.raises(error, match=says):
            check_questions(model, tokenizer, tasks)
    with pytest.raises(UsageError, match="documents must be a whole number of at least 2, got 1"):
        zero_shot(model, tokenizer, [questions], documents=1)
    with pytest.raises(UsageError, match="batch must be a whole number of at least 1, got 0"):
        zero_shot(model, tokenizer, [questions], batch=0)
    with pytest.raises(ModelError, match="no tokenizer"):
        check_questions(model, None, [questions])
    with pytest.raises(ModelError, match="without a token for the beginning or end"):
        zero_shot(model, byte_tokenizer(), [questions])
    model.lm_head.weight[ord("x")] = math.nan
    with pytest.raises(NumericalError, match=r"questions.jsonl, question \d+: a log-likelihood is not finite"):
        zero_shot(model, tokenizer, [questions])


class Manager:
    """The harness's own tasks, with one that is here, one without its data, one of another kind, and a group."""

    all_subtasks = ["boolq", "here", "gsm8k"]
    all_tasks = [*all_subtasks, "mmlu"]

    def __init__(self, here):
        self.here = here

    def load(self, names):
        if names == ["boolq"]:
            raise ConnectionError("Couldn't reach 'aps/super_glue' on the Hub (OfflineModeIsEnabled)\nTraceback")
        if names == ["gsm8k"]:
            self.here.OUTPUT_TYPE = "generate_until"
        return {"tasks": {names[0]: self.here}}


@pytest.mark.slow
def test_hub_tasks(questions, monkeypatch):
    """Their data is not here: what is said then; and that one whose data is here is asked without examples, some of its
    questions.
    """
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    here = module._local_task(questions, "as it is", 30, 0)
    here.set_config("task", "here")
    here.set_config("num_fewshot", 5)
    monkeypatch.setattr(module, "_manager", lambda: Manager(here))
    module._hub_task.cache_clear()
    asked = (("hub:here", 8), ("hub:here", 4), (questions, 30))
    found, fewer, every = (
        {
            tuple(round(x, 2) for x in answer.log_likelihoods)
            for answer in answers(model, tokenizer, [name], documents=n)[name]
        }
        for name, n in asked
    )
    assert len(fewer) == 4 and len(found) == 8 and fewer < found < every
    here._metric_fn_list.pop("acc_norm")
    (score,) = zero_shot(model, tokenizer, ["hub:here"], documents=8)
    assert math.isnan(score.accuracy_norm) and math.isnan(score.standard_error_norm), "as the harness has none for it"
    for name, error, says in (
        (
            "hub:boolq",
            DataError,
            (
                r"could not be loaded \(ConnectionError: Couldn't reach 'aps/super_glue' .*\); .* put its questions in"
                r" a file"
            ),
        ),
        ("hub:bolq", UsageError, "no such task; did you mean boolq"),
        ("hub:mmlu", UsageError, "is a group"),
        ("hub:gsm8k", UsageError, "on generate_until, not by accuracy"),
    ):
        with pytest.raises(error, match=says):
            check_questions(model, tokenizer, [name])
    module._hub_task.cache_clear()


@pytest.mark.slow
def test_the_lab_model_knows_its_world_and_forgets_when_pruned(lab):
    from analysis.pruning.loop import prune
    from analysis.recipe.recipe import Recipe
    from analysis.text.load import load_tokens

    tasks = ["lab:facts-easy", "lab:common-sense", "lab:pronouns"]  # the short ones
    pruned = prune(lab, Recipe.parse("magnitude-60% LR"), load_tokens("lab:mixed", lab, samples=8, length=64))
    before, after = (zero_shot(model, lab.tokenizer, tasks, documents=60) for model in (lab.model, pruned.model))
    assert all(score.accuracy > score.chance + 0.2 for score in before)
    assert sum(score.accuracy for score in after) < sum(score.accuracy for score in before) - 0.4


@pytest.mark.slow
def test_evaluate_asks_tasks(capsys):
    assert (
        main(
            [
                "evaluate",
                "lab",
                "--device",
                "cpu",
                "--task",
                "lab:facts-easy",
                "--task",
                "lab:pronouns",
                "--documents",
                "8",
                "--json",
            ]
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in document["tasks"]] == ["lab:facts-easy", "lab:pronouns"] and document[
        "perplexity"
    ] == []
    assert all(
        row["documents"] == 8 and 0 <= row["accuracy"] <= 1 and row["fingerprint"].startswith(row["task"])
        for row in document["tasks"]
    )
    for argv, code, says in (
        ([], 2, "give --text, --task, or both"),
        (["--task", "lab:no"], 2, "no task 'no'"),
        (["--task", "x.jsonl"], 4, "no such file"),
        (["--task", "lab:pronouns", "--documents", "1"], 2, "--documents must be a whole number of at least 2"),
    ):
        assert main(["evaluate", "lab", "--device", "cpu", *argv]) == code
        assert says in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_fetched_and_nothing_left_behind(tmp_path):
    """In a process of its own, whose every cache folder is ours to look at."""
    code = (
        "from analysis.models.load import load_model\nfrom analysis.measure.zero_shot import zero_shot\nlab ="
        " load_model('lab', device='cpu')\nprint(zero_shot(lab.model, lab.tokenizer, ['lab:pronouns'],"
        " documents=2)[0].documents)"
    )
    folders = {"HF_HOME": "hf", "XDG_CACHE_HOME": "xdg", "TMPDIR": "tmp", "HOME": "home"}
    for folder in folders.values():
        (tmp_path / folder).mkdir()
    environment = (
        os.environ
        | {name: str(tmp_path / folder) for name, folder in folders.items()}
        | {"HF_HUB_OFFLINE": "1", "ANALYSIS_HOME": str(tmp_path / "home")}
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["2"], done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.real_assets
def test_real_questions_are_beyond_a_model_of_260_thousand_parameters(assets, tmp_path):
    tiny = load_model(str(assets / "stories260K"), device="cpu")
    tasks = [str(assets / "tasks" / f"{name}.jsonl") for name in ("arc_easy", "openbook_qa", "piqa")]
    assert zero_shot(tiny.model, tiny.tokenizer, tasks[2:], documents=40)[0].left_out == 1, "one of 649 tokens"
    tasks[2] = str(tmp_path / "short.jsonl")
    with open(assets / "tasks" / "piqa.jsonl", encoding="utf-8") as every:
        (tmp_path / "short.jsonl").write_text("".join(line for line in every if len(line) < 600), encoding="utf-8")
    scores = zero_shot(tiny.model, tiny.tokenizer, tasks, documents=40)
    assert [score.chance for score in scores] == pytest.approx([0.25, 0.25, 0.5], abs=0.02)
    assert all(abs(score.accuracy - score.chance) < 4 * max(score.standard_error, 0.05) for score in scores)
    check_against_hand(
        tiny.model, tiny.tokenizer, tasks[2], answers(tiny.model, tiny.tokenizer, tasks[2:], documents=3)[tasks[2]], 3
    )


@pytest.mark.gpu
def test_the_device_changes_nothing(questions):
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    here = answers(model, tokenizer, [questions], documents=20)[questions]
    there = answers(model.to("cuda"), tokenizer, [questions], documents=20)[questions]
    assert all(one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-3) for one, other in zip(here, there))
