"""Forecasts: operations against those that torch counts, memory against what runs hold, and how both grow."""

from dataclasses import replace

import pytest
from torch.utils.flop_counter import FlopCounterMode

from analysis.errors import UsageError
from analysis.models.anatomy import anatomy
from analysis.models.replay import record, run
from analysis.models.shape import shape_of
from analysis.pruning.loop import prune
from analysis.streams.moments import PANEL
from analysis.study.counts import works
from analysis.study.footprint import CONTEXT, Held, held_in_training
from analysis.study.forecast import duration, forecast, size
from analysis.study.sizes import Sizes
from analysis.study.work import HEAD, Work, forward, gram, training
from tests.helpers.families import tiny
from tests.helpers.machines import GIB, MACHINE, job, llama_shape
from tests.helpers.small import small_llama, windows


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A Llama of 7 billion parameters, without them."""
    return llama_shape(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def small():
    """A small Llama, its shape, and a job of 8 + 8 windows of 16 tokens on it."""
    model = small_llama()
    return model, shape_of(model, "small"), job(samples=8, length=16, dtype="float32")


def counted(body) -> float:
    """Operations of matrix products that torch counts, attention's own left out."""
    with FlopCounterMode(display=False) as counter:
        body()
    found = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    return sum(count for operator, count in found.items() if "attention" not in operator)


def test_operations_of_a_block_are_those_that_torch_counts(small):
    model, shape, _ = small
    parts, texts = anatomy(model), windows(8)
    block, recording = parts.blocks[1], record(model, parts, texts)
    call = recording.call(1, slice(0, 8))
    once = forward(shape.blocks[1], shape.hidden, 128, length=16, forwards=1, dtype="float32")
    plain = Work({key: count for key, count in once.products.items() if key[1] != HEAD})
    assert counted(lambda: run(block.module, recording.hidden, call)) == plain.operations

    def step():
        block.module.requires_grad_(True)
        run(block.module, recording.hidden, call).square().mean().backward()

    try:
        trained = training(plain, steps=1, parameters=0, tensors=0)
        assert counted(step) == trained.operations == 3 * plain.operations
    finally:
        block.module.requires_grad_(False).zero_grad()


def test_of_a_mixture_the_experts_a_token_goes_to_are_counted():
    """Two of four for each token, and their routers besides, which no forecast counts."""
    model = tiny("mixtral")
    shape, parts = shape_of(model, "mixture"), anatomy(model)
    model.set_experts_implementation("eager")  # whose products torch counts
    recording = record(model, parts, windows(8, vocabulary=model.config.vocab_size))
    call, tokens = recording.call(1, slice(0, 8)), recording.hidden.shape[:2].numel()
    once = forward(shape.blocks[1], shape.hidden, tokens, length=16, forwards=1, dtype="float32")
    plain = Work({key: count for key, count in once.products.items() if key[1] != HEAD})
    router = 2 * tokens * shape.hidden * model.config.num_local_experts
    assert counted(lambda: run(parts.blocks[1].module, recording.hidden, call)) == plain.operations + router
    assert {matrix.share for matrix in shape.blocks[1].matrices} == {1.0, 0.5}


def test_a_repair_of_wide_experts_is_foreseen_without_their_gram_matrix():
    """Beside weights: a square while it is made, else the activations; and where there is no room these go to disk."""
    shape = shape_of(tiny("mixtral"), "mixture")
    blocks = tuple(replace(one, matrices=tuple(map(_wide, one.matrices))) for one in shape.blocks)
    wide, asked = replace(shape, blocks=blocks), job("reap-experts-25% LIAR", dtype="float32")
    repair = lambda shape, room=None: of(forecast(asked, shape, "cpu", room=room), "repair")
    assert Sizes(asked, wide, "cpu").kept_experts(blocks[0]) == (3 * 30_000, 2 / 3)
    narrow = Sizes(asked, shape, "cpu").kept_experts(shape.blocks[0])[0]
    assert repair(shape).held.host < 2 * GIB and narrow < 1000
    kept = repair(wide).held.host
    square, activations = 8 * 90_000**2, 4 * asked.samples * asked.length * 2 * 30_000
    assert activations < kept < 6 * square
    little = Held(0, 10 * GIB)
    assert kept - repair(wide, little).held.host >= activations
    assert forecast(asked, wide, "cpu", room=little).spilled >= activations
    assert repair(wide).operations > 100 * repair(shape).operations


def _wide(matrix):
    return replace(matrix, columns=30_000) if matrix.expert == "last" else matrix


def test_statistics_of_starved_experts_take_a_pass_more():
    shape = shape_of(tiny("mixtral"), "mixture")
    rule = lambda word, **changes: (
        of(forecast(job(f"wanda-50%[starved={word}] LR", **changes), shape, "cpu"), "statistics").operations
    )
    assert rule("all-tokens") > 1.5 * rule("shrink") == 1.5 * rule("magnitude")
    few = {"samples": 1, "length": 16}
    assert rule("all-tokens", **few) == rule("shrink", **few) > 1.5 * rule("magnitude", **few)


@pytest.mark.parametrize("width", [64, 512, 640])
def test_operations_of_a_gram_matrix_are_those_of_its_panels(width):
    ends = [min(start + PANEL, width) for start in range(0, width, PANEL)]
    panels = sum(2 * 10 * end * (end - start) for start, end in zip([0, *ends], ends))
    assert gram(10, width).operations == pytest.approx(panels, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["wanda-50% BR+GP[epochs=1]", "wanda-50% BR+GP[epochs=1,unit=sub-block]", "wanda-50% BR+GP+CR[epochs=1]"]
)
def test_what_training_holds_is_what_runs_count(small, recipe):
    """The bytes that a run counts (`held_bytes`) are foreseen to a tenth; it counts texts with them."""
    model, shape, asked = small
    asked = replace(asked, recipe=type(asked.recipe).parse(recipe))
    pruned = prune(model, recipe, windows(8), {"stories": windows(8, seed=1)}, measure=False)
    cost = pruned.tables["cost"]
    measured = cost[cost.stage == "solve"].solver_memory_mib.max() * 2**20
    sizes = Sizes(asked, shape, "cpu")
    texts = 2 * 2 * 8 * 16 * 32 * 4  # inputs and targets of both texts
    foreseen = max(held_in_training(sizes, visit) for visit in sizes.visits) + texts
    assert foreseen == pytest.approx(measured, rel=0.1)


def test_every_stage_that_a_run_has_is_foreseen(small):
    """Tokens as the table `cost` counts them; stages whose tokens it does not count stand aside."""
    model, shape, asked = small
    expected = forecast(asked, shape, "cpu", MACHINE)
    pruned = prune(model, asked.recipe, windows(8), {"stories": windows(8, seed=1)})
    cost = pruned.tables["cost"].groupby("stage").tokens.sum()
    foreseen = {stage.name: stage.tokens for stage in expected.stages}
    assert set(cost.index) <= foreseen.keys() | {"resume", "structures"}
    for stage in ("record", "statistics", "target", "advance", "measure"):
        assert foreseen[stage] == cost[stage], stage


def test_seconds_are_the_work_at_the_machines_rates(small):
    _, shape, asked = small
    expected = forecast(asked, shape, "cpu", MACHINE)
    sizes = Sizes(asked, shape, "cpu")
    assert expected.seconds == pytest.approx(sum(MACHINE.seconds(work) for work, _ in works(sizes, True).values()))
    assert forecast(asked, shape, "cpu").seconds is None and "about" not in forecast(asked, shape, "cpu").line()
    assert expected.line().startswith("forecast: about ")


def of(expected, name):
    return next(stage for stage in expected.stages if stage.name == name)


def test_work_grows_with_windows_epochs_and_blocks(seven, tmp_path):
    once = forecast(job(), seven, "cuda")
    assert of(forecast(job(samples=256), seven, "cuda"), "solve").operations == pytest.approx(
        2 * of(once, "solve").operations
    )
    longer = forecast(job("wanda-50% BR+GP[epochs=20]"), seven, "cuda")
    assert 1.9 < of(longer, "solve").operations / of(once, "solve").operations < 2
    half = forecast(job(), llama_shape(tmp_path, blocks=16), "cuda")
    assert of(half, "solve").operations == pytest.approx(of(once, "solve").operations / 2)
    crossed = forecast(job("wanda-50% BR+GP+CR"), seven, "cuda")
    assert of(crossed, "solve").operations == pytest.approx(2 * of(once, "solve").operations)


@pytest.mark.slow
def test_memory_falls_with_dtype_batch_and_unit_and_streamed_does_not_grow_with_depth(seven, tmp_path):
    peak = lambda recipe="wanda-50% BR+GP", shape=seven, placement="resident", **changes: (
        forecast(job(recipe, placement=placement, **changes), shape, "cuda").peak.device
    )
    whole = peak(dtype="float32")
    assert 4 * 2 * seven.parameters < whole and peak() < whole - 3 * seven.parameters
    assert peak("wanda-50% BR+GP[batch=1]") < peak("wanda-50% BR+GP[batch=4]") < peak()
    assert peak("wanda-50% BR+GP[unit=sub-block]", samples=8) < peak(samples=8) < peak("wanda-50% BR+GP+CR", samples=8)
    assert peak("wanda-50% BR+GP[unit=sub-block]") > peak()  # of many texts it keeps inputs and targets
    deep = llama_shape(tmp_path, blocks=64)
    assert peak(placement="streamed") == peak(shape=deep, placement="streamed") < peak() < peak(shape=deep)


def test_streams_go_where_there_is_room(seven):
    """2 GiB each in bfloat16: they leave a small device for the host, and a small host for the disk."""
    at = lambda device, host: forecast(job(), seven, "cuda", room=Held(device * GIB, host * GIB))
    roomy, small, none = at(200, 200), at(40, 200), at(40, 4)
    roomy_solve, small_solve = of(roomy, "solve").held, of(small, "solve").held
    assert roomy_solve.device - small_solve.device == 6 * 2 * GIB and roomy.spilled == small.spilled == 0
    assert small_solve.host - roomy_solve.host == 6 * 2 * GIB and none.spilled == 6 * 2 * GIB
    assert of(roomy, "record").held.device - CONTEXT - 4 * seven.parameters > 4 * 2 * GIB


def test_validation_windows_are_set_aside_or_more(seven):
    own = Sizes(job("wanda-50% BR+GP[select=held-out]"), seven, "cpu").texts
    assert own == {"calibration": 96, "validation": 32, "stories": 128}
    given = Sizes(job("wanda-50% BR+GP[select=held-out]", validation="lab:news"), seven, "cpu").texts
    assert given["calibration"] == given["validation"] == 128


@pytest.mark.parametrize(
    "recipe",
    [
        "magnitude-50% LR",
        "sparsegpt-2:4 LR",
        "wanda+swaps-50% LR",
        "wanda+fw-50% ridge",
        "wanda-50% ridge[target=dense]",
        "wanda-50% retrain",
        "wanda-50% retrain[objective=distill,train=masklora]",
        "wanda-50% retrain[objective=hidden]",
        "wanda-50% BR[unit=matrix]",
        "wanda-50% BR[train=norms-biases]",
        "wanda-50% IR[unit=model]",
        "flap-neurons-50% LIAR+GP",
        "snip-heads-50% LIAR",
    ],
)
def test_every_kind_of_recipe_has_a_forecast(seven, recipe):
    """Finite, with no stage that takes nothing."""
    expected = forecast(job(recipe), seven, "cpu", MACHINE)
    assert all(0 < stage.seconds < 1e9 and 0 < stage.held.host < 1e15 for stage in expected.stages)
    assert expected.to_dict()["seconds"] == expected.seconds > 100


def test_what_is_not_counted_is_said(seven):
    more = {"full_test": True, "held_out": {"mine": "mine.txt"}, "added": "self", "added_samples": 4}
    expected = forecast(job("wanda+swaps-50% LR", **more), seven, "cpu")
    assert [words.split()[0] for words in expected.uncounted] == ["--full-test,", "text", "swaps"]


def test_a_unit_wider_than_the_model_is_refused(small):
    _, shape, asked = small
    with pytest.raises(UsageError, match="width=9"):
        forecast(replace(asked, recipe=type(asked.recipe).parse("wanda-50% BR[width=9]")), shape, "cpu")


def test_words_for_amounts():
    assert [duration(value) for value in (9.6, 300, 9000)] == ["10 s", "5 min", "2.5 h"]
    assert [size(value) for value in (2**20, 3 * 2**29)] == ["1 MiB", "1.5 GiB"]
