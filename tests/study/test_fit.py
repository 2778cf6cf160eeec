"""What cannot fit is refused before the work, with what would; memory that ran out is told with numbers."""

import re
from dataclasses import replace

import pytest

from analysis.errors import DataError, OutOfMemory
from analysis.study import fit
from analysis.study.fit import STEPS, Change, advice, hopeless, lacking, look_ahead, memory_told, where_it_fits
from analysis.study.footprint import Held
from analysis.study.forecast import forecast
from analysis.study.machine import SLOW
from tests.helpers.machines import GIB, MACHINE, job, llama_shape


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A Llama of 7 billion parameters, without them."""
    return llama_shape(tmp_path_factory.mktemp("llama"))


def on(gib, shape, **changes):
    """A job's forecast on a CUDA device with so many GiB, and the room."""
    room = Held(gib * GIB, 256 * GIB)
    return job(**changes), forecast(job(**changes), shape, "cuda", room=room), room


def test_every_change_that_is_advised_fits(seven):
    """No more is said than what the same forecast gives of the changed job."""
    asked, expected, room = on(36, seven)
    assert lacking(expected, room) == [
        f"{expected.peak.device / GIB:.1f} GiB for the device (in the stage solve), of which 36.0 GiB are free"
    ]
    told = advice(asked, seven, expected, room)
    assert (
        told.startswith("each of these alone would fit: --placement streamed")
        and "batch=" in told
        and "--device cpu" in told
    )
    start, changes = Change("", asked), {}
    for step in STEPS:
        changes |= {change.words: change.job for change in step(start)}
    for words in re.findall(r"(?:: |; )(.*?) \(", told):
        kind = "cpu" if "cpu" in words else "cuda"
        assert not lacking(forecast(changes[words], seven, kind, room=room), room), words
    assert "batch=8" not in told and "bfloat16" not in told  # it is computed in bfloat16 already


def test_what_no_single_change_mends_may_be_mended_by_several(seven):
    asked, expected, _ = on(12, seven, dtype="float32", recipe="wanda-50% BR+GP+CR", placement="streamed")
    room = Held(12 * GIB, 20 * GIB)
    told = advice(asked, seven, expected, room)
    assert told.startswith("this would fit: --dtype bfloat16, batch=") and "together" in told
    assert advice(asked, seven, expected, Held(GIB, GIB)).startswith("nor would any smaller form")


def test_streaming_is_advised_where_the_recipe_allows_it(seven):
    asked, expected, room = on(20, seven)
    assert "--placement streamed (" in advice(asked, seven, expected, room)
    asked, expected, room = on(20, seven, recipe="wanda-50% retrain")
    assert "placement" not in advice(asked, seven, expected, room)


def test_only_what_is_beyond_doubt_is_hopeless(seven):
    _, expected, _ = on(80, seven)
    need = expected.peak.device
    assert not lacking(expected, Held(need, 256 * GIB)) and not hopeless(expected, Held(need, 256 * GIB))
    assert lacking(expected, Held(int(0.9 * need), 256 * GIB)) and not hopeless(
        expected, Held(int(0.9 * need), 256 * GIB)
    )
    assert hopeless(expected, Held(int(0.79 * need), 256 * GIB))


@pytest.fixture
def here(seven, monkeypatch):
    """This machine is a CPU with so much memory; what was timed and said is listed."""
    said, timed, taken = [], [], []
    monkeypatch.setattr(fit, "model_shape", lambda name: seven)
    monkeypatch.setattr(fit, "this_machine", lambda device: timed.append(device) or MACHINE)

    def with_memory(gib, asked, **options):
        monkeypatch.setattr(fit, "free_memory", lambda device: Held(0, int(gib * GIB)))
        taken.append(look_ahead(replace(asked, device="cpu"), said.append, **options))
        return said, timed

    with_memory.taken = taken
    return with_memory


def test_models_are_streamed_where_only_so_they_fit(here, seven):
    asked = replace(job(), device="cpu")

    def fits(gib, placement):
        room = Held(0, gib * GIB)
        return not lacking(forecast(replace(asked, placement=placement), seven, "cpu", SLOW, room=room), room)

    said, _ = here(100, asked, choose=True)
    assert here.taken[-1].placement == "resident" and not any("streamed" in line for line in said)
    between = next(gib for gib in range(8, 100) if fits(gib, "streamed"))
    assert not fits(between, "resident")
    said, _ = here(between, asked, choose=True)
    assert here.taken[-1] == replace(asked, placement="streamed")
    assert re.match(r"forecast: .* GiB for this process .* are free; the models are streamed", said[-2])
    with pytest.raises(OutOfMemory):
        here(0.5 * between, asked, choose=True)
    whole, room = replace(asked, recipe=job("wanda-50% retrain").recipe), Held(0, between * GIB)
    expected = forecast(whole, seven, "cpu", SLOW, room=room)
    assert lacking(expected, room) and where_it_fits(whole, expected, room, pytest.fail) is None


def test_a_long_run_says_its_forecast_first(here):
    said, timed = here(100, job())
    assert (
        len(said) == 1 and re.match(r"forecast: about [\d,.]+ h, [\d.]+ GiB of memory, ", said[0]) and timed == ["cpu"]
    )


def test_a_short_run_says_nothing_and_times_nothing(here, monkeypatch, tmp_path):
    small = llama_shape(tmp_path, blocks=2, hidden_size=32, intermediate_size=64, num_attention_heads=4, vocab_size=99)
    monkeypatch.setattr(fit, "model_shape", lambda name: small)
    assert here(100, job("wanda-50% LR", samples=2, length=16)) == ([], [])


def test_what_cannot_fit_is_refused_and_anyway_begins(here):
    with pytest.raises(
        OutOfMemory, match=r"would need .* GiB for this process .* 20\.0 GiB are free; .*--anyway begins"
    ):
        here(20, job())
    said, _ = here(20, job(), anyway=True)
    assert said[-1].endswith("begun --anyway")


def test_what_may_just_fit_is_begun_with_a_warning(here, seven):
    need = forecast(replace(job(), device="cpu"), seven, "cpu", MACHINE).peak.host
    said, _ = here(0.95 * need / GIB, job())
    assert "it may run out of memory" in said[-1]


def test_a_forecast_that_fails_keeps_no_run_from_beginning(here, monkeypatch):
    monkeypatch.setattr(fit, "forecast", lambda *_, **__: {}["hidden"])
    assert here(100, job())[0] == ["no forecast: KeyError: 'hidden'"]


def test_a_model_that_cannot_be_described_is_left_to_its_loader(monkeypatch):
    look_ahead(replace(job(), model="no such model"), pytest.fail)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate"),
    ],
)
def test_memory_that_ran_out_is_told_with_numbers(here, error):
    here(100, job())
    with pytest.raises(OutOfMemory) as caught, memory_told(replace(job(), device="cpu")):
        raise error
    told = str(caught.value)
    assert re.match(r"out of memory.*: the forecast is [\d.]+ GiB, 100\.0 GiB were free at the beginning; ", told)
    assert "\n" not in told and "Finished work is kept: the same command goes on" in told
    assert caught.value.exit_code == 8 and caught.value.__cause__ is error


def test_memory_told_leaves_other_errors_and_what_is_told_already(here):
    here(100, job())
    for error in (DataError("empty"), OutOfMemory("told"), RuntimeError("a bug")):
        with pytest.raises(type(error)) as caught, memory_told(replace(job(), device="cpu")):
            raise error
        assert caught.value is error


def test_without_numbers_the_message_is_still_one():
    with pytest.raises(OutOfMemory, match=r"^out of memory\. Finished work"), memory_told(replace(job(), model="none")):
        raise MemoryError


def test_the_slow_machine_is_slow():
    assert SLOW.passes < MACHINE.passes and SLOW.call > MACHINE.call
