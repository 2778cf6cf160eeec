"""The project's nine promises, one section each. What a family or a room promises in detail is tested beside that
room.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from analysis.errors import NumericalError, OverlapError, ReplayError, SparsityError
from analysis.models.anatomy import anatomy
from analysis.models.save import assert_sparsity
from analysis.paths import ROOT
from analysis.pruning.checkpoint import Checkpoint
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import WEIGHT_METHODS
from analysis.schema import TABLES
from analysis.windows import Windows, append
from tests.helpers.small import small_llama, windows

BR = "BR[epochs=2,lr=1e-3]"


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# 1. Exact replay (every family: tests/models/test_replay.py) ---------------------------------------------------------


def test_1_pruning_refuses_a_model_that_cannot_be_replayed():
    model = small_llama()
    calls = []

    def drift(module, args, output):
        calls.append(1)
        return output * (1 + 1e-3 * len(calls))

    model.model.layers[1].register_forward_hook(drift)
    with pytest.raises(ReplayError):
        prune(model, Recipe.parse("wanda-50% LR"), windows(4))


# 2. Sparsity is a contract -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["30%", "50%", "2:4", "1:4", "0%"])
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_2_exact_counts_after_every_stage_and_after_reload(criterion, pattern, tmp_path):
    from transformers import AutoModelForCausalLM

    result = prune(small_llama(blocks=2), Recipe.parse(f"{criterion}-{pattern} {BR}"), windows(6))
    result.save(tmp_path / "model")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for model in (result.model, reloaded):
        for block in anatomy(model).blocks:
            for matrix in block.matrices:
                mask, weight = result.masks[f"{block.name}.{matrix.name}"], matrix.weight()
                assert bool((weight[~mask] == 0).all())
                if ":" in pattern:
                    keep, of = map(int, pattern.split(":"))
                    assert bool((mask.view(-1, of).sum(1) == keep).all())
                elif criterion == "wanda":
                    assert mask.sum(1).unique().tolist() == [
                        matrix.columns - round(float(pattern[:-1]) / 100 * matrix.columns)
                    ]
                else:
                    assert int(mask.sum()) == mask.numel() - round(float(pattern[:-1]) / 100 * mask.numel())
    assert same_weights(result.model, reloaded)


@pytest.mark.slow
def test_2_exact_under_ties():
    model = small_llama(blocks=1)
    for matrix in anatomy(model).blocks[0].matrices:
        matrix.assign(torch.full_like(matrix.weight(), 0.05))
    for criterion in ("magnitude", "wanda", "sparsegpt"):
        result = prune(model, Recipe.parse(f"{criterion}-50% LR"), windows(4))
        assert (result.tables["matrices"].sparsity == 0.5).all()


def test_2_a_revived_weight_is_an_error():
    result = prune(small_llama(), Recipe.parse("wanda-50% LR"), windows(4))
    name, mask = next(iter(result.masks.items()))
    result.model.get_submodule(name).weight.data[~mask] = 1e-8
    with pytest.raises(SparsityError, match=name):
        assert_sparsity(result.model, result.masks)


# 3. No silent substitute ---------------------------------------------------------------------------------------------


def test_3_a_dead_input_is_recorded_by_name():
    model = small_llama(blocks=1)
    model.model.layers[0].mlp.up_proj.weight.data[5] = 0  # down_proj's input 5 is always zero
    result = prune(model, Recipe.parse("sparsegpt-50% LR"), windows(8))
    numerics = result.tables["numerics"]
    dead = numerics[(numerics.matrix == "mlp.down_proj") & numerics.rule.str.contains("dead")]
    assert len(dead) == 1 and dead.value.iloc[0] == 1
    assert not result.masks["model.layers.0.mlp.down_proj"][:, 5].any()


def test_3_more_inputs_than_tokens_is_handled_by_damping_alone():
    result = prune(small_llama(blocks=1), Recipe.parse("sparsegpt-50% LR"), windows(1, length=8))
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_3_a_non_finite_activation_names_the_matrix():
    model = small_llama(blocks=2)
    model.model.layers[1].input_layernorm.weight.data[3] = float("inf")
    with pytest.raises((NumericalError, ReplayError), match=r"layers\.1|block 1"):
        prune(model, Recipe.parse("wanda-50% LR"), windows(4))


# 4. Same inputs, same result -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "random-50% LR",
        f"sparsegpt-50% {BR}",
        "wanda-2:4 BR+GP+CR[epochs=2]",
        "random-structures-50% LIAR",
        "snip-neurons-50% BR+GP[repair=scale,epochs=2]",
    ],
)
def test_4_bit_for_bit_whatever_the_global_seed(recipe):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(prune(small_llama(), Recipe.parse(recipe), windows(8), {"other": windows(4, seed=1)}))
        assert torch.equal(state, torch.get_rng_state()), "global random state is left alone"
    assert same_weights(results[0].model, results[1].model)
    for table in TABLES.keys() - {"cost"}:
        assert results[0].tables[table].equals(results[1].tables[table]), table


@pytest.mark.slow
def test_4_the_seed_is_an_argument():
    a, b = (prune(small_llama(), Recipe.parse(f"random-neurons-50% LR[seed={seed}]"), windows(4)) for seed in (0, 1))
    assert any(not torch.equal(a.structure_masks[name], b.structure_masks[name]) for name in a.structure_masks)
    a, b = (prune(small_llama(), Recipe.parse(f"random-50% LR[seed={seed}]"), windows(4)) for seed in (0, 1))
    assert any(not torch.equal(a.masks[name], b.masks[name]) for name in a.masks)


# 5. Interrupted is not lost ------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, visits",
    [
        ("sparsegpt-50% LR", 3),
        ("sparsegpt-50% BR+GP[epochs=2,lr=1e-3]", 3),
        ("sparsegpt-50% BR+GP+CR[epochs=2,lr=1e-3]", 4),
        ("wanda+swaps-50% BR[unit=matrix,epochs=2,lr=1e-3]", 3),
        ("ria-50% IR[unit=sub-block,epochs=2,lr=1e-3,train=masklora,rank=2]", 3),
        ("magnitude-50% ridge[target=dense]", 3),
        ("wanda-50% retrain[epochs=2,lr=1e-3]", 1),
        ("flap-structures-50% LIAR", 3),
        ("fisher-structures-40%[scope=global] LIAR+GP[penalty=held-out]", 3),
        ("flap-heads-50% retrain[repair=liar,epochs=2]", 1),
        ("wanda-sp-structures-50%[heads=queries,statistics=dense] BR+GP+CR[repair=compensate,epochs=2,lr=1e-3]", 4),
    ],
)
def test_5_killed_at_any_visit_resumes_bit_equal(recipe, visits, tmp_path, monkeypatch):
    recipe = Recipe.parse(recipe)
    arguments = (small_llama(), recipe, append(windows(6), windows(2, seed=5)), {"other": windows(4, seed=1)})
    whole = prune(*arguments)
    for stop in range(visits):
        folder = tmp_path / f"{stop}"
        write = Checkpoint.write

        def stop_after(self, index, tensors, rows, write=write, stop=stop):
            write(self, index, tensors, rows)
            if index == stop:
                raise Interrupted

        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Checkpoint, "write", stop_after)
            prune(*arguments, checkpoint=folder)
        resumed = prune(*arguments, checkpoint=folder)
        assert same_weights(whole.model, resumed.model), stop
        assert all(torch.equal(whole.masks[name], resumed.masks[name]) for name in whole.masks)
        for table in TABLES.keys() - {"cost"}:
            assert whole.tables[table].equals(resumed.tables[table]), (stop, table)


@pytest.mark.slow
def test_5_another_recipe_or_data_does_not_resume(tmp_path):
    model = small_llama()
    prune(model, Recipe.parse(f"wanda-50% {BR}"), windows(8), checkpoint=tmp_path)
    for recipe, data in ((f"wanda-50% {BR[:-1]},seed=3]", windows(8)), (f"wanda-50% {BR}", windows(8, seed=5))):
        fresh = prune(model, Recipe.parse(recipe), data)
        assert same_weights(fresh.model, prune(model, Recipe.parse(recipe), data, checkpoint=tmp_path).model)


@pytest.mark.long
@pytest.mark.slow
def test_5_a_real_kill(tmp_path):
    """SIGKILL while the second visit runs; the next identical call, in another process, ends with the bits of an
    uninterrupted one.
    """
    recipe = "wanda-50% BR[epochs=20]"
    script = textwrap.dedent(f"""
        import sys, torch
        torch.set_num_threads(1)
        from analysis.pruning.loop import prune
        from analysis.recipe.recipe import Recipe
        from tests.helpers.small import small_llama, windows
        prune(small_llama(), Recipe.parse({recipe!r}), windows(64), checkpoint=sys.argv[1])
    """)
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "c")], cwd=ROOT)
    while process.poll() is None and not (tmp_path / "c" / "visit-0000.safetensors").exists():
        time.sleep(0.005)
    assert process.poll() is None, "it finished before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed, whole = (
        prune(small_llama(), Recipe.parse(recipe), windows(64), checkpoint=tmp_path / folder).model
        for folder in ("c", "fresh")
    )
    assert same_weights(resumed, whole)


# 6. Calibration and held-out are labelled, overlap is an error -------------------------------------------------------


@pytest.mark.slow
def test_6_every_error_and_perplexity_says_which_side_it_is():
    result = prune(
        small_llama(), Recipe.parse(f"wanda-50% {BR}"), windows(6), {"x": windows(4, seed=1), "y": windows(4, seed=2)}
    )
    for table in ("blocks", "steps", "perplexity"):
        assert set(result.tables[table].split) == {"calibration", "x", "y"}, table
    assert set(result.tables["texts"].split) == {"x", "y"}, "distances are of held-out texts from the calibration text"
    assert result.provenance["calibration"]["source"] == "calibration" and set(result.provenance["held_out"]) == {
        "x",
        "y",
    }


def test_6_shared_text_is_refused_before_any_work():
    calibration = windows(6, length=32)
    shifted = Windows(
        calibration.ids.flatten()[7 : 7 + 64].view(2, 32), torch.ones(2, 32, dtype=torch.bool), "shifted", {}
    )
    with pytest.raises(OverlapError, match="shifted|x"):
        prune(small_llama(), Recipe.parse("wanda-50% LR"), calibration, {"x": shifted})


# 7. Every number carries its cost ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_7_seconds_memory_tokens_and_parameters_of_every_stage(method):
    result = prune(small_llama(), Recipe.parse(f"wanda-50% {method}"), windows(4), {"x": windows(2, seed=1)})
    cost = result.tables["cost"]
    assert list(cost.columns) == [
        "unit",
        "stage",
        "seconds",
        "peak_memory_mib",
        "solver_memory_mib",
        "tokens",
        "trainable_parameters",
    ]
    assert (cost.seconds >= 0).all() and (cost.peak_memory_mib > 0).all()
    solve = cost[cost.stage == "solve"]
    dense = small_llama()
    block = sum(p.numel() for p in dense.model.layers[0].parameters())
    kept = list(result.tables["matrices"].kept)
    trained = {"LR": [], "ridge": kept, "retrain": [sum(p.numel() for p in dense.parameters())]}.get(
        method, [block, 2 * block]
    )
    assert set(solve.trainable_parameters) <= set(trained) and bool(len(solve)) == bool(trained)
    assert (solve.tokens == (1 if method == "ridge" else 10) * 4 * 16).all()
    assert set(cost.stage) >= {"record", "statistics", "mask", "advance", "measure"}


# 8. Offline by default -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_8_no_socket_is_opened(tmp_path):
    script = textwrap.dedent("""
        import socket, sys
        def refuse(*args, **kwargs):
            raise SystemExit("a socket was opened")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        from analysis import load_model, load_tokens, prune, Recipe
        lab = load_model("lab")
        calibration = load_tokens("lab:stories", lab, samples=2, length=32)
        result = prune(lab, Recipe.parse("wanda-50% LR"), calibration)
        result.save(sys.argv[1])
    """)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "m")], cwd=ROOT, check=True, env=environment)
    assert {f.suffix for f in (tmp_path / "m").iterdir()} <= {".json", ".safetensors", ".jinja", ".txt"}, "no pickles"


# 9. Padding changes nothing ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "wanda-50% LR",
        "sparsegpt-50% LR",
        f"sparsegpt-50% {BR}",
        "wanda-50% BR+GP+CR[epochs=2]",
        "flap-structures-50% LIAR+GP",
        "fisher-neurons-50%[scope=global] LIAR",
    ],
)
def test_9_padded_windows_give_what_the_unpadded_give(recipe):
    """The same windows, once as they are and once with eight padded positions of other content at their right."""
    plain, other = windows(8, length=16), {"x": windows(4, length=16, seed=1)}

    def pad(w: Windows, seed: int) -> Windows:
        junk = windows(len(w), length=8, seed=seed)
        return Windows(
            torch.cat([w.ids, junk.ids], 1), torch.cat([w.mask, torch.zeros_like(junk.mask)], 1), w.label, w.provenance
        )

    a = prune(small_llama(), Recipe.parse(recipe), plain, other)
    b = prune(small_llama(), Recipe.parse(recipe), pad(plain, 7), {"x": pad(other["x"], 8)})
    agreement = sum(float((a.masks[n] == b.masks[n]).float().mean()) for n in a.masks) / len(a.masks)
    assert agreement > 0.999, "rounding may turn a tie, content of padding may not"
    x, y = (
        a.tables["blocks"].set_index(["block", "split", "kind"]).error,
        b.tables["blocks"].set_index(["block", "split", "kind"]).error,
    )
    assert (x - y).abs().max() < 0.02 * x.abs().max()
    assert list(a.tables["perplexity"].tokens) == list(b.tables["perplexity"].tokens)
