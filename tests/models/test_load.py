"""Loading: names, and every way a model folder can be broken, each with one message that names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from analysis import paths
from analysis.errors import AnalysisError, ModelError, UnsupportedModel, UsageError
from analysis.models import hub
from analysis.models.hub import POOLING, fingerprint, lab_models
from analysis.models.load import LoadedModel, load_model
from analysis.models.quiet import quiet
from analysis.pruning.checks import header_misfits
from analysis.recipe.recipe import Recipe
from tests.helpers.families import VOCABULARY, tiny

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "llama"
    with quiet():
        tiny("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of the saved model, to be broken."""
    copy = tmp_path / "llama"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def load(folder) -> LoadedModel:
    return load_model(str(folder), device="cpu")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def add_tokenizer(folder, size):
    tokenizer = Tokenizer(models.WordLevel({f"word{index}": index for index in range(size)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="word0").save_pretrained(folder)


def test_a_local_folder(saved):
    loaded = load(saved)
    assert not loaded.model.training and not loaded.model.config.use_cache
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.tokenizer, loaded.name, loaded.context) == (None, str(saved), 64)
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    assert loaded.fingerprint == fingerprint(str(saved))
    for name, value in tiny("llama").state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_chosen_once(saved, dtype):
    assert {parameter.dtype for parameter in load_model(str(saved), device="cpu", dtype=dtype).model.parameters()} == {
        getattr(torch, dtype)
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma3", "opt", "gpt_neox", "bloom"])
def test_other_families(family, tmp_path):
    with quiet():
        tiny(family).save_pretrained(tmp_path)
    assert load(tmp_path).model.config.model_type == tiny(family).config.model_type


def test_a_tokenizer_comes_along(folder):
    add_tokenizer(folder, VOCABULARY)
    assert load(folder).tokenizer("word3").input_ids == [3]


def test_device_and_dtype_are_checked_before_anything_is_read():
    for name in ("tpu", "cuda:x", "", "cpu,cuda", None, 0):
        with pytest.raises(UsageError, match="(possible are|give) auto, cuda, cuda:N, mps"):
            load_model("/nowhere", device=name)
    for dtype in ("int8", 7, ["float32"], torch.float32):
        with pytest.raises(UsageError, match="possible are auto, float32, bfloat16, float16"):
            load_model("/nowhere", dtype=dtype)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="not on this machine"):
            load_model("/nowhere", device="cuda")


def test_loading_is_quiet(saved, capfd, recwarn):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(saved)
    assert capfd.readouterr() == ("", "")
    assert len(recwarn) == 0
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "no such folder, and not a lab model"),
        ("./typo", "no such folder"),
        ("a/b/c", "no such folder"),
        ("https://example.org/model", "no such folder"),
        ("", "no such folder"),
        ("~nosuchuser/model", "is no path"),
        ("x" * 5000, "is no path"),
        ("lab/nothing", "the lab ships no such model"),
        ("nobody/nothing-of-the-kind", "the hub gave no 'nobody/nothing-of-the-kind' at revision 'main'"),
        ("nothing-of-the-kind@v1", "the hub gave no 'nothing-of-the-kind' at revision 'v1'"),
    ],
)
def test_a_model_that_is_not_there(name, words):
    for operation in (load_model, fingerprint):
        with pytest.raises(ModelError, match=words):
            operation(name)


@pytest.mark.parametrize("name", [None, 3, ["lab"], b"lab"])
def test_what_is_no_name(name):
    for operation in (load_model, fingerprint):
        with pytest.raises(UsageError, match="model .*: is of type"):
            operation(name)


def test_a_path_is_a_name(saved):
    assert load_model(saved, device="cpu").name == str(saved)
    assert fingerprint(saved) == fingerprint(str(saved))


def test_what_is_no_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "loop"):
        with pytest.raises(ModelError, match="is no folder"):
            load_model(tmp_path / name)


def test_a_file_is_no_folder(saved):
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load(saved / WEIGHTS)


def test_lab_names(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "lab", lambda: tmp_path)
    assert lab_models() == []
    for name in ("decoder", "encoder"):
        (tmp_path / name).mkdir()
        for path in saved.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer").mkdir()
    assert lab_models() == ["lab", "lab/encoder"]
    assert load("lab").name == "lab"
    assert fingerprint("lab") == fingerprint("lab/encoder") == fingerprint(str(saved))


def test_hub_ids_and_revisions():
    for name, expected in {
        "gpt2": ("gpt2", "main"),
        "org/name": ("org/name", "main"),
        "org/name@v1.0": ("org/name", "v1.0"),
        "org/name@refs/pr/3": ("org/name", "refs/pr/3"),
    }.items():
        source = hub.find(name)
        assert (source.folder, source.hub_id, source.revision) == (None, *expected)


def test_a_hub_model_is_fetched_once_and_known_by_its_commit(saved, tmp_path, monkeypatch):
    """A made-up hub: it serves only the files asked for, into the snapshot folder of one commit."""
    from fnmatch import fnmatch

    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot, asked = tmp_path / commit, []

    def snapshot_download(repo_id, revision, local_files_only=False, allow_patterns=(), ignore_patterns=()):
        if local_files_only and not snapshot.exists():
            raise LocalEntryNotFoundError("not cached")
        if not local_files_only:
            asked.append((repo_id, revision, tuple(allow_patterns)))
            snapshot.mkdir(exist_ok=True)
            for path in saved.iterdir():
                if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                    (snapshot / path.name).write_bytes(path.read_bytes())
        return str(snapshot)

    cached = lambda repo_id, name, revision: str(snapshot / name) if snapshot.exists() else None
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    for _ in range(2):
        assert load("org/name@v1").fingerprint == fingerprint("org/name@v1") == f"hub:org/name@{commit}"
    assert [(repo, revision) for repo, revision, _ in asked] == [("org/name", "v1"), ("org/name", commit)]
    assert asked[1][2] == (WEIGHTS,)
    assert fingerprint(f"org/name@{commit}") == f"hub:org/name@{commit}"


# --- fingerprint -----------------------------------------------------------------------------------------------------


def test_fingerprint_changes_with_what_decides_and_nothing_else(folder):
    first = fingerprint(str(folder))
    assert len(first) == 64
    (folder / "README.md").write_text("words")
    assert fingerprint(str(folder)) == first
    edit_weights(folder, lambda state: state["model.norm.weight"].add_(1e-6))
    second = fingerprint(str(folder))
    edit(folder, rms_norm_eps=1e-5)
    third = fingerprint(str(folder))
    seen = [first, second, third]
    for file in ("tokenizer.json", "special_tokens_map.json", "preprocessor_config.json", POOLING):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("{}")
        seen.append(fingerprint(str(folder)))
    (folder / POOLING).write_text('{"pooling_mode_cls_token": true}')
    seen.append(fingerprint(str(folder)))
    assert len(set(seen)) == len(seen) == 8


@pytest.mark.slow
def test_fingerprint_and_names_load_no_torch(saved):
    code = (
        "import sys; from analysis.models.hub import fingerprint, lab_models; lab_models();"
        f" fingerprint({str(saved)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)


# --- broken folders
# ----------------------------------------------------------------------------------------------------


def truncate(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def only_pickles(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def missing_shards(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )


def broken_index(folder):
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text("[]")


BROKEN = {
    "no config": ("has no config.json", lambda folder: (folder / "config.json").unlink()),
    "broken config": ("cannot be read as JSON", lambda folder: (folder / "config.json").write_text("{")),
    "binary config": ("cannot be read as JSON", lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00")),
    "config of something else": ("names no model_type", lambda folder: (folder / "config.json").write_text("[1]")),
    "unknown family": (
        "knows no model_type 'nonesuch', so it cannot use .*config.json",
        lambda folder: edit(folder, model_type="nonesuch"),
    ),
    "impossible config": ("model", lambda folder: edit(folder, hidden_size="wide")),
    "heads that do not divide": ("model", lambda folder: edit(folder, num_attention_heads=0)),
    "no weights": ("has no weights", lambda folder: (folder / WEIGHTS).unlink()),
    "pickles only": ("pytorch_model.bin is cut short, or holds more than tensors and could run code", only_pickles),
    "truncated": ("model.safetensors is cut short or no safetensors file", truncate),
    "empty": (
        "model.safetensors is cut short or no safetensors file",
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
    ),
    "text": (
        "model.safetensors is cut short or no safetensors file",
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs"),
    ),
    "missing shard": ("1 of 2 weight files .* missing: model-00002-of-00002.safetensors", missing_shards),
    "broken index": ("is no index of weight files", broken_index),
    "missing key": (
        "1 parameters are missing .*model.layers.2.mlp.up_proj.weight",
        lambda folder: edit_weights(folder, lambda state: state.pop("model.layers.2.mlp.up_proj.weight")),
    ),
    "more blocks in the config": (
        "9 parameters are missing .*model.layers.4",
        lambda folder: edit(folder, num_hidden_layers=5, layer_types=None),
    ),
    "fewer blocks in the config": (
        "have no place .*model.layers.3",
        lambda folder: edit(folder, num_hidden_layers=3, layer_types=None),
    ),
    "wrong shape": (
        "12 of its weights do not have the shape .*gate_proj.weight: \\(48, 32\\), not \\(40, 32\\)",
        lambda folder: edit(folder, intermediate_size=40),
    ),
    "nan": (
        "parameter model.layers.1.self_attn.k_proj.weight \\(16, 32\\) is not finite",
        lambda folder: edit_weights(folder, poison),
    ),
    "broken tokenizer": ("tokenizer in .* cannot be read", lambda folder: (folder / "tokenizer.json").write_text("{")),
    "no decoder": (
        "t5 is no causal language model but an encoder-decoder",
        lambda folder: edit(folder, model_type="t5"),
    ),
    "an encoder-decoder whose decoder alone is known as a causal model": (
        "bart is no causal language model but an encoder-decoder",
        lambda folder: edit(folder, model_type="bart", architectures=["BartForConditionalGeneration"]),
    ),
    "quantized": ("quantized", lambda folder: edit(folder, quantization_config={"quant_method": "gptq"})),
    "remote code": (
        "needs code of its own \\(auto_map\\), which is not run",
        lambda folder: edit(folder, model_type="nonesuch", auto_map={"AutoConfig": "evil.Config"}),
    ),
}


def renamed(name):
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def index(text):
    """Shards instead of one file, and an index that reads like this."""

    def damage(folder):
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(text)

    return damage


def adapter(folder):
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    (folder / "adapter_model.safetensors").write_bytes(b"")


def quantized(key, dtype):
    """One weight stored in another form, under another key."""

    def change(state):
        state["model.layers.0.mlp.up_proj." + key] = state.pop("model.layers.0.mlp.up_proj.weight").to(dtype)

    return lambda folder: edit_weights(folder, change)


def pipe(name):
    def damage(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


BROKEN |= {
    "adapter": ("holds an adapter of org/base \\(adapter_config.json, adapter_model.saf.*merge", adapter),
    "gguf": ("m.gguf is cut short or no GGUF file|pip install gguf", renamed("m.gguf")),
    "gptq by its file": ("weights are quantized \\(gptq_model-4bit", renamed("gptq_model-4bit-128g.safetensors")),
    "gptq by its keys": (
        "quantized \\(model.layers.0.mlp.up_proj.qweight is stored as I32",
        quantized("qweight", torch.int32),
    ),
    "integers among floats": ("quantized \\(.*up_proj.weight is stored as I8", quantized("weight", torch.int8)),
    "eight bits": ("quantized \\(.*up_proj.weight is stored as F8_E4M3", quantized("weight", torch.float8_e4m3fn)),
    "variant": ("under other names \\(model.fp16.safetensors\\)", renamed("model.fp16.safetensors")),
    "consolidated": ("under other names \\(consolidated.safetensors\\)", renamed("consolidated.safetensors")),
    "shards without an index": (
        "1 shards \\(model-00001-of-00002.safetensors\\) without the model.safetensors.index.json",
        renamed("model-00001-of-00002.safetensors"),
    ),
    "index to elsewhere": ("names files outside its folder", index('{"weight_map": {"a": "../x.safetensors"}}')),
    "index to the root": ("names files outside its folder", index('{"weight_map": {"a": "/x.safetensors"}}')),
    "index of numbers": ("gives no file names", index('{"weight_map": {"a": 1}}')),
    "index of nothing": ("gives no file names", index('{"weight_map": {}}')),
    "index too deep": ("is no index .*nested too deeply", index("[" * 200_000)),
    "config too deep": ("nested too deeply", lambda folder: (folder / "config.json").write_text('{"a":' * 200_000)),
    "config a pipe": ("has no config.json", pipe("config.json")),
    "weights a pipe": ("has no weights", pipe(WEIGHTS)),
    "ten million layers": (
        "says num_hidden_layers=10000000, its weight files hold 39 tensors",
        lambda folder: edit(folder, num_hidden_layers=10**7, layer_types=None),
    ),
    "a width of 2 ** 40": (
        "hidden_size=1099511627776, its weight files hold no tensor wider than 64",
        lambda folder: edit(folder, hidden_size=2**40),
    ),
    "multimodal": (
        "is a multimodal model \\(audio_config\\) that is no ForConditionalGeneration of pictures and text",
        lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_audio"})),
    ),
    "a config no forward runs with": (
        "cannot load|cannot read three tokens",
        lambda folder: edit(folder, hidden_act="x"),
    ),
}


def poison(state):
    state["model.layers.1.self_attn.k_proj.weight"][3, 4] = float("nan")


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_one_clear_error(folder, how):
    words, damage = BROKEN[how]
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_an_attention_of_another_package_gives_way_to_torchs_own(folder, key):
    edit(folder, **{key: "flash_attention_2"})
    loaded = load(folder)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.notes == ("attention: torch's own, config.json asks for flash_attention_2",)


def test_a_token_without_an_embedding_is_no_reason_to_refuse(folder):
    add_tokenizer(folder, VOCABULARY + 1)
    assert len(load(folder).tokenizer) == VOCABULARY + 1


@pytest.mark.slow
def test_a_tokenizer_that_needs_packages_names_them(folder, monkeypatch):
    from analysis.models import load as module

    (folder / "tokenizer.model").write_bytes(b"\x0a\x00")
    edit_config = {"tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(edit_config))
    monkeypatch.setattr(module, "_is_installed", lambda name: False)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelError, match="pip install sentencepiece protobuf"):
        load(folder)


@pytest.mark.parametrize("padding", ["word3", "word0", None])
def test_a_decoder_that_classifies_takes_the_tokenizers_padding(tmp_path, padding):
    """Unless there is none, or it is the token that ends every text."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    size = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with quiet(), torch.random.fork_rng():
        LlamaForSequenceClassification(LlamaConfig(**size, pad_token_id=None)).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"word{index}": index for index in range(20)}, unk_token="word1"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="word1", eos_token="word0", pad_token=padding
    ).save_pretrained(tmp_path)
    if padding == "word3":
        assert load(tmp_path).model.config.pad_token_id == 3
        return
    with pytest.raises(ModelError, match="config.json names no pad_token_id; enter that of the tokenizer"):
        load(tmp_path)


def test_quantized_is_called_unsupported(folder):
    edit(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModel):
        load(folder)


def test_weights_too_large_for_half_precision(folder):
    edit_weights(folder, lambda state: state["lm_head.weight"].mul_(1e6))
    load(folder)
    with pytest.raises(ModelError, match="lm_head.weight .* not finite in float16"):
        load_model(str(folder), device="cpu", dtype="float16")


def test_an_encoder_is_no_decoder_even_where_transformers_loads_it(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(
            BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="bert"):
        load(tmp_path)


def test_every_error_has_one_base():
    assert issubclass(UnsupportedModel, ModelError) and issubclass(ModelError, AnalysisError)


@pytest.mark.real_assets
def test_stories260k(assets):
    loaded = load(assets / "stories260K")
    assert loaded.context == 512 and loaded.tokenizer is not None
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "recipe, said",
    [
        (
            "wanda-50% BR[train=masklora,rank=49]",
            ["rank=49 is above the rank of", "smallest is model.layers.0.self_attn.k_proj", "at most 48"],
        ),
        ("wanda-50% retrain[train=masklora,rank=48]", []),
        ("wanda-50% BR[width=9]", ["width=9: the model has 8 blocks", "unit=model"]),
        ("wanda-50% BR[width=9,overlap=1]", []),
        ("wanda-50% BR+GP[unit=sub-block]", []),
    ],
)
def test_what_a_model_cannot_give_is_said_before_it_is_loaded(recipe, said):
    found = header_misfits("lab", Recipe.parse(recipe))
    assert len(found) == bool(said) and all(part in found[0] for part in said), found
    assert header_misfits("somebody/on-the-hub", Recipe.parse(recipe)) == []
