"""Uneven patterns: texts that round-trip, exact counts of every matrix, and OWL against its definition by loops."""

import json
import math

import pytest
import torch

from analysis.errors import RecipeError, UsageError
from analysis.masks.patterns import kept
from analysis.masks.shares import matrix_shares, outlier_ratio, owl_shares
from analysis.models.anatomy import anatomy
from analysis.pruning.loop import prune
from analysis.recipe.parts import Pattern
from analysis.recipe.recipe import Recipe
from tests.helpers.references import normal
from tests.helpers.small import small_llama, windows

BLOCKS = [(f"layers.{index}", {"attn.q_proj": 64, "mlp.down_proj": 128}) for index in range(4)]


@pytest.mark.parametrize(
    "text",
    [
        "wanda-50%[skip=first:1+last:1] LR",
        "sparsegpt-2:4[skip=down_proj+layers.0.attn.q_proj] BR",
        "wanda-50%[shares=0.4+0.5+0.6] LR",
        "wanda-50%[shares=0:0.3+q_proj:0.6] ridge",
        "magnitude-70%[group=row,skip=last:2,shares=owl,outliers=7.0,spread=0.1] BR+GP[epochs=2]",
        "magnitude-70%[shares=owl,added=all] LR",
    ],
)
def test_uneven_patterns_round_trip(text):
    recipe = Recipe.parse(text)
    assert str(recipe) == text and hash(recipe) == hash(Recipe.parse(text))
    assert Recipe.from_toml(recipe.to_toml()) == Recipe.from_dict(recipe.to_dict()) == recipe
    even = Recipe.parse(text.partition("[")[0] + " " + text.rpartition(" ")[2])
    assert (
        recipe.digest() != even.digest()
        and not {"skip", "shares", "outliers", "spread"} & even.to_dict()["pattern"].keys()
    )


def test_one_meaning_has_one_digest_however_it_was_given(tmp_path):
    recipe = Recipe.parse("wanda-50%[shares=0.4+0.5+0.6] LR")
    (tmp_path / "list.json").write_text(json.dumps([0.40, 0.5, 0.6]))
    (tmp_path / "lines.csv").write_text("0.4\n0.50\n\n0.6\n")
    for other in (
        Recipe.parse("wanda-50%[shares=0.40+0.5+.6] LR"),
        Recipe.parse(f"wanda-50%[shares={tmp_path}/list.json] LR"),
        Recipe.parse(f"wanda-50%[shares={tmp_path}/lines.csv] LR"),
    ):
        assert other == recipe and other.digest() == recipe.digest() and str(other) == str(recipe)
    assert Pattern(0.5, shares=[0.4, 0.5, 0.6]) == recipe.pattern
    (tmp_path / "names.json").write_text(json.dumps({"q_proj": 0.6, "0": 0.3}))
    (tmp_path / "names.csv").write_text("q_proj, 0.6\n0, 0.3\n")
    named = Recipe.parse("wanda-50%[shares=q_proj:0.6+00:0.3] LR")
    for file in ("names.json", "names.csv"):
        assert Recipe.parse(f"wanda-50%[shares={tmp_path / file}] LR") == named
    assert Pattern(0.5, skip=["first:01", "down_proj", "first:1"]).skip == "first:1+down_proj"
    assert Recipe.parse("wanda-50%[shares=0.5] LR").pattern.shares == "0.5"


@pytest.mark.parametrize(
    "text, problems",
    [
        ("wanda-50%[skip=first:0] LR", ["skip must be first:N, last:N (blocks), numbers of blocks or names"]),
        ("wanda-50%[skip=middle:2] LR", ["got 'middle:2'"]),
        ("wanda-50%[skip=-3] LR", ["skip must be first:N", "got -3"]),
        ("wanda-50%[shares=0.4+q_proj:0.5] LR", ["all of one kind"]),
        ("wanda-50%[shares=0.4+1.2] LR", ["each from 0 to below 1; got '1.2'"]),
        ("wanda-50%[shares=0.4+half] LR", ["got 'half'"]),
        ("wanda-50%[shares=q_proj:0.4+q_proj:0.5] LR", ["'q_proj' is given twice"]),
        ("wanda-50%[shares=nowhere.json] LR", ["shares cannot be read from nowhere.json"]),
        ("wanda-50%[shares=0.2+0.3] LR", ["have a mean of 25%: write 25%, not 50%"]),
        ("wanda-2:4[shares=owl] LR", ["shares=owl does not go with N:M"]),
        ("wanda-50%[outliers=3] LR", ["outliers is an option of shares=owl, not of shares=none"]),
        ("wanda-50%[shares=owl,spread=1] LR", ["spread must be a number from 0 to below 1, got 1"]),
        (
            "flap-heads-50%[skip=first:1,shares=owl] LR",
            ["shares=owl counts outliers among single weights; heads take shares that are given"],
        ),
        ("flap-heads-50%[skip=0,scope=global] LR", ["skip do not go with scope=global, which is one budget"]),
        (
            "wanda-150%[skip=x:1,shares=2,outliers=-1] LR",
            ["skip must be", "shares must be", "outliers must be", "sparsity 150% is outside"],
        ),
        ("magnitude-50%[shares=owl,statistics=dense] LR", ["statistics=dense does not apply to magnitude"]),
    ],
)
def test_wrong_uneven_patterns_say_everything_at_once(text, problems):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    for sentence in problems:
        assert any(sentence in problem for problem in caught.value.problems), caught.value.problems
    wrong = {problem for problem in caught.value.problems if any(sentence in problem for sentence in problems)}
    assert len(wrong) == len(caught.value.problems), caught.value.problems


def test_shares_of_matrices():
    def shares(**options):
        return matrix_shares(Pattern(0.5, **options), BLOCKS)

    assert shares() == {}
    skip = shares(skip="first:1+last:2+down_proj")
    assert [name for name, share in skip.items() if share] == ["layers.1.attn.q_proj"] and len(skip) == 8
    assert list(shares(shares=[0.2, 0.4, 0.6, 0.8]).values()) == [0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8]
    mixed = shares(shares={"layers.2.attn.q_proj": 0.1, "q_proj": 0.7, "2": 0.3}, skip="layers.3.mlp.down_proj")
    assert list(mixed.values()) == [0.7, 0.5, 0.7, 0.5, 0.1, 0.3, 0.7, 0.0]
    owl = matrix_shares(Pattern(0.7, shares="owl", skip="last:1+q_proj"), BLOCKS, [0.1, 0.2, 0.4, 9.9])
    left = [owl[f"layers.{index}.mlp.down_proj"] for index in range(4)]
    assert left[3] == 0 and sum(left[:3]) / 3 == pytest.approx(0.7) and left[0] > left[1] > left[2] > 0
    assert left[0] - left[2] == pytest.approx(0.16) and not any(owl[f"layers.{i}.attn.q_proj"] for i in range(4))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"skip": "first:4"}, "leaves nothing to prune in 4 blocks"),
        ({"skip": "proj"}, "no pruned matrix is named proj; a block has attn.q_proj, mlp.down_proj"),
        ({"shares": "0.5+0.5"}, "2 shares, the model has 4 blocks"),
        ({"shares": "4:0.5"}, "there is no block 4"),
        ({"skip": "0+4"}, "there is no block 4; the model has 4, from 0"),
        ({"shares": "nowhere:0.5"}, "no pruned matrix is named nowhere"),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_any_work(options, problem):
    with pytest.raises(UsageError, match=problem):
        matrix_shares(Pattern(0.5, **options), BLOCKS)
    texts = {key: value.replace("4", "2") if key == "skip" else value for key, value in options.items()}
    pattern = ",".join(f"{key}={value}" for key, value in texts.items())
    with pytest.raises(UsageError, match="recipe wanda-50%"):
        prune(
            small_llama(blocks=2 if "0.5+" not in pattern else 3), Recipe.parse(f"wanda-50%[{pattern}] LR"), windows(2)
        )


def test_owl_s_shares_are_those_of_its_code():
    """prune_wanda_outlier of the released code, by loops."""
    ratios, sparsity, spread = [3.2, 0.4, 1.9, 0.7], 0.7, 0.08
    kept_shares = [(ratio - min(ratios)) * (1 / (max(ratios) - min(ratios)) * spread * 2) for ratio in ratios]
    mean = sum(kept_shares) / 4
    expected = [1 - (share - mean + (1 - sparsity)) for share in kept_shares]
    assert owl_shares(ratios, [5] * 4, sparsity, spread) == pytest.approx(expected, abs=1e-12)
    weights = [1, 2, 3, 4]
    shares = owl_shares(ratios, weights, sparsity, spread)
    assert sum(s * w for s, w in zip(shares, weights, strict=True)) / 10 == pytest.approx(sparsity)
    assert owl_shares([0.3] * 4, weights, sparsity, spread) == pytest.approx([0.7] * 4)
    with pytest.raises(UsageError, match="give a smaller spread"):
        owl_shares(ratios, weights, 0.95, 0.4)


def test_outliers_are_counted_by_definition():
    parts = [normal((6, 10), 1).square(), normal((4, 5), 2).square()]
    values = [value for part in parts for value in part.flatten().tolist()]
    mean = sum(values) / len(values)
    assert outlier_ratio(parts, 2.0) == sum(value > 2 * mean for value in values) / len(values) > 0


@pytest.mark.slow
def test_owl_prunes_by_the_outliers_of_the_dense_model():
    """Scores from the dense blocks' inputs, taken by hooks while the whole dense model runs; counts exact."""
    dense, texts = small_llama(blocks=3), windows(6)
    parts, squares, tokens = anatomy(dense), {}, int(texts.mask.sum())

    def remember(name):
        def hook(module, args):
            squares[name] = args[0][texts.mask].double().square().sum(0)

        return hook

    handles = [matrix.module.register_forward_pre_hook(remember(name)) for name, matrix in parts.matrices()]
    with torch.no_grad():
        dense(input_ids=texts.ids, attention_mask=texts.mask.long())
    for handle in handles:
        handle.remove()
    ratios = []
    for block in parts.blocks:
        values = []
        for matrix in block.matrices:
            norms = (squares[f"{block.name}.{matrix.name}"] / tokens).sqrt().tolist()
            values += [abs(w) * norms[j] for row in matrix.weight().double().tolist() for j, w in enumerate(row)]
        mean = math.fsum(values) / len(values)
        ratios.append(sum(value > 3 * mean for value in values) / len(values))
    assert len(set(ratios)) == 3
    sizes = [sum(m.rows * m.columns for m in block.matrices) for block in parts.blocks]
    expected = owl_shares(ratios, sizes, 0.6, 0.1)
    recipe = Recipe.parse("magnitude-60%[shares=owl,outliers=3,spread=0.1] LR")
    result = prune(dense, recipe, texts)
    for block, share in zip(parts.blocks, expected, strict=True):
        for matrix in block.matrices:
            mask = result.masks[f"{block.name}.{matrix.name}"]
            assert int(mask.sum()) == kept(mask.numel(), share)
    total = sum(int(mask.sum()) for mask in result.masks.values()) / sum(mask.numel() for mask in result.masks.values())
    assert total == pytest.approx(0.4, abs=1e-3)
    again = prune(dense, recipe, texts, measure=False)
    assert all(torch.equal(mask, again.masks[name]) for name, mask in result.masks.items())


@pytest.mark.slow
@pytest.mark.parametrize("text", ["wanda-50%", "sparsegpt-50%", "sparsegpt-2:4", "magnitude+swaps-50%"])
@pytest.mark.parametrize("method", ["LR", "BR[epochs=1]", "ridge"])
def test_matrices_left_dense_keep_every_weight_and_the_others_their_counts(text, method):
    dense = small_llama(blocks=3)
    result = prune(dense, Recipe.parse(f"{text}[skip=first:1+down_proj] {method}"), windows(6))
    table = result.tables["matrices"].set_index(["block", "matrix"])
    for block in anatomy(dense).blocks:
        for matrix in block.matrices:
            mask = result.masks[f"{block.name}.{matrix.name}"]
            left = block.index == 0 or matrix.name.endswith("down_proj")
            assert int(mask.sum()) == mask.numel() // (1 if left else 2)
            assert table.loc[(block.index, matrix.name)].sparsity == (0 if left else 0.5)
            if left and method == "LR":
                pruned = dict(anatomy(result.model).matrices())[f"{block.name}.{matrix.name}"]
                assert torch.equal(pruned.weight(), matrix.weight())


@pytest.mark.slow
def test_given_shares_are_exact_in_every_group():
    result = prune(small_llama(blocks=2), Recipe.parse("wanda-50%[shares=0.25+0.75] BR[epochs=1]"), windows(6))
    for name, mask in result.masks.items():
        share = 0.25 if ".0." in name else 0.75
        assert (mask.sum(1) == kept(mask.shape[1], share)).all(), name


@pytest.mark.slow
def test_a_resumed_owl_run_ends_with_the_same_bits(tmp_path):
    dense, recipe = small_llama(blocks=3), Recipe.parse("wanda-60%[shares=owl,outliers=3] BR[epochs=1]")
    whole = prune(dense, recipe, windows(6), checkpoint=tmp_path, measure=False)
    for file in sorted(tmp_path.glob("visit-*"))[1:]:
        file.unlink()
    again = prune(dense, recipe, windows(6), checkpoint=tmp_path, measure=False)
    weights = again.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.model.state_dict().items())
