"""Bad inputs: calls of every verb of the command line, and of the public functions, that must be refused.

Each is refused with one message and the right exit code (command line) or with an `AnalysisError` (Python). The lists
are read by `benchmarks/attacks.py`.
"""

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path

DEEP = "[" * 200_000 + "]" * 200_000


def build_world(folder: Path) -> Path:
    """Texts, tasks, tables and models, right and broken, for the calls below."""
    from analysis.paths import ROOT

    words = [
        "the",
        "a",
        "old",
        "cat",
        "dog",
        "hill",
        "river",
        "sees",
        "finds",
        "likes",
        "and",
        "but",
        "then",
        "bread",
        "song",
    ]
    draw = random.Random(0)
    documents = [" ".join(draw.choices(words, k=60)) for _ in range(80)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    for name, content in {
        "short.txt": "the cat",
        "empty.txt": "",
        "blank.txt": " \n\n \n",
        "nul.txt": "\0" * 4000,
        "deep.json": DEEP,
        "deep.jsonl": DEEP + "\n",
        "broken.json": '[{"text": "a"',
        "numbers.json": "[1, 2, 3]",
        "columns.csv": "id,label\n1,2\n3,4\n",
        "deep.toml": "x = " + DEEP,
        "huge.toml": "x = " + "1" * 5000,
        "recipe.toml": 'criterion = "wanda"\nsparsity = "many"\n',
        "labels.tsv": "sentence\tlabel\nthe cat sees\t-\nthe dog finds\t-\n",
        "task.jsonl": '{"query": "a", "choices": ["b"], "gold": 7}\n',
        "deep-task.jsonl": DEEP + "\n",
        "empty-task.jsonl": "",
        "file": "not a folder",
    }.items():
        (folder / name).write_text(content)
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (folder / "latin.txt").write_bytes("déjà vu été ".encode("latin-1") * 400)
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2000))
    (folder / "archive.zip").write_bytes(b"PK\x03\x04" + bytes(2000))
    (folder / "report.pdf").write_bytes(b"%PDF-1.7\n" + bytes(2000))
    os.mkfifo(folder / "pipe.txt")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "dangling").symlink_to(folder / "nowhere" / "deep")
    _break_models(folder, ROOT / "data" / "lab" / "decoder")
    return folder


def _break_models(folder: Path, models: Path) -> None:
    files = {
        path.name: path.read_bytes() for path in models.iterdir() if path.is_file() and path.stat().st_size < 2**26
    }
    config = json.loads(files["config.json"])

    def broken(name: str, **changes: bytes | None) -> None:
        (folder / name).mkdir()
        for file, content in {**files, **changes}.items():
            if content is not None:
                (folder / name / file).write_bytes(content)

    def with_config(**changes) -> bytes:
        return json.dumps(config | changes).encode()

    weights = "model.safetensors"
    broken("model")
    broken("no-config", **{"config.json": None})
    broken("deep-config", **{"config.json": DEEP.encode()})
    broken("list-config", **{"config.json": b"[]"})
    broken("no-weights", **{weights: None})
    broken("torn-weights", **{weights: files[weights][:5000]})
    broken("header-of-2^62", **{weights: (2**62).to_bytes(8, "little") + b"{}"})
    broken("pickle", **{weights: None, "pytorch_model.bin": b"\x80\x02."})
    broken("more-blocks", **{"config.json": with_config(num_hidden_layers=10**7)})
    broken("wide", **{"config.json": with_config(hidden_size=2**40)})
    broken("other-shape", **{"config.json": with_config(intermediate_size=7)})
    broken(
        "unknown-family", **{"config.json": with_config(model_type="nobody-knows", architectures=["NobodyForCausalLM"])}
    )
    broken(
        "remote-code",
        **{"config.json": with_config(auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil")},
    )
    broken("quantised", **{"config.json": with_config(quantization_config={"quant_method": "gptq", "bits": 4})})
    index = json.dumps({"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../outside.safetensors"}})
    broken("outside", **{weights: None, "model.safetensors.index.json": index.encode()})
    broken("number-index", **{weights: None, "model.safetensors.index.json": b'{"weight_map": {"a": 7}}'})
    broken("deep-index", **{weights: None, "model.safetensors.index.json": DEEP.encode()})
    broken("no-tokenizer", **{name: None for name in files if "token" in name or name in ("vocab.json", "merges.txt")})
    broken("deep-tokenizer", **{"tokenizer.json": DEEP.encode()})
    broken("adapter", **{"config.json": None, weights: None, "adapter_config.json": b"{}"})
    broken("gguf", **{"config.json": None, weights: None, "model.gguf": b"GGUF" + bytes(100)})


def command_lines(world: Path) -> dict[str, tuple[list[str], set[int]]]:
    """Name of the attack: arguments, and the exit codes that are right."""
    text, out = f"{world}/text.txt", f"{world}/out"

    def prune(model: str = "lab", /, **changes) -> list[str]:
        given = {
            "recipe": "wanda-50% LR",
            "calibration": text + "[:60%]",
            "held-out": text + "[60%:]",
            "samples": 4,
            "length": 32,
            "out": out,
        } | {name.replace("_", "-"): value for name, value in changes.items()}
        argv = ["prune", model]
        for name, value in given.items():
            for each in value if isinstance(value, list) else [] if value is None else [value]:
                argv += [f"--{name}={each}"]
        return argv

    def evaluate(**changes) -> list[str]:
        given = {"text": text, "samples": 4, "length": 32} | changes
        return ["evaluate", "lab", *(f"--{name}={value}" for name, value in given.items())]

    attacks: dict[str, tuple[list[str], set[int]]] = {}

    def add(group: str, argv: list[str], *codes: int) -> None:
        attacks[f"{argv[0]} {group}"] = (argv, set(codes))

    for name in sorted(path.name for path in world.iterdir() if path.is_dir() and path.name != "model"):
        add(f"model {name}", prune(f"{world}/{name}"), 3, *([2, 4] if "token" in name else []))
        add(f"model {name}", ["check", f"{world}/{name}"], 3, *([0] if "token" in name else []))
    for name in ("", " ", "..", "~nosuchuser/m", "x" * 5000, f"{world}/pipe.txt", f"{world}/loop.txt", "lab@main"):
        add(f"model name {name[:20]!r}", prune(name), 2, 3)
    texts = ["short", "empty", "blank", "nul", "binary", "latin", "loop", "pipe"]
    for name in [f"{each}.txt" for each in texts] + [
        "image.png",
        "archive.zip",
        "report.pdf",
        "deep.json",
        "deep.jsonl",
    ]:
        add(f"text {name}", prune(calibration=f"{world}/{name}"), 4)
        add(f"text {name}", evaluate(text=f"{world}/{name}"), 4)
        add(f"describe {name}", ["data", "describe", f"{world}/{name}"], 4)
    for name in ("broken.json", "numbers.json", "columns.csv", "none.txt", "model"):
        add(f"text {name}", prune(calibration=f"{world}/{name}"), 2, 4)
    for source in (
        "",
        "hub:",
        "hub:../..",
        f"hub:{world}",
        "lab:",
        "lab:none",
        "self:temperature=-1",
        "self:top-p=nan",
        "~nosuchuser/t",
        text + "[150%:]",
        text + "[-5%:]",
        text + "[:1e400%]",
        text + "[50%:20%]",
        text + "[:" + "9" * 5000 + "]",
        text + "[x:y]",
        text + "[1000000000:]",
        text + ":0.5",
        text + ":0.5+lab:stories:0.6",
        "+".join([text] * 3000),
        "a\0b.txt",
        "x" * 5000,
        "examples:",
        "examples:none",
        f"{world}/deep.jsonl#a.b",
        text + "[" + "[" * 1000,
        "/dev/zero",
        "/dev/null",
    ):
        add(f"source {source[-24:]!r}", prune(calibration=source), 2, 3, 4)
    for recipe in (
        "",
        "wanda",
        "wanda-50%",
        "wonda-50% LR",
        "wanda-100% LR",
        "wanda-150% LR",
        "wanda--5% LR",
        "wanda-nan% LR",
        "wanda-99.9999999% LR",
        "wanda-5:4 LR",
        "wanda-0:4 LR",
        "wanda-2:" + "9" * 5000 + " LR",
        "wanda-2:7 LR",
        "wanda-50% BR[lr=nan]",
        "wanda-50% BR[lr=inf]",
        "wanda-50% BR[lr=-1]",
        "wanda-50% BR[lr=0]",
        "wanda-50% BR[epochs=0]",
        "wanda-50% BR[epochs=1e9]",
        "wanda-50% BR[batch=0]",
        "wanda-50% BR[batch=-3]",
        "wanda-50% BR[epochs=2,epochs=3]",
        "wanda-50% BR[nope=1]",
        "wanda-50% ridge[penalty=nan]",
        "sparsegpt-50%[damping=-1] LR",
        "sparsegpt-50%[damping=nan] LR",
        "ria-50%[exponent=1e200] LR",
        "ria-50%[exponent=nan] LR",
        "wanda+swaps-50%[swaps=-1] LR",
        "magnitude+fw-50%[iterations=0] LR",
        "wanda-50%[seed=-1] LR",
        "wanda-50%[seed=" + "9" * 400 + "] LR",
        "wanda-50%[skip=first:99] LR",
        "wanda-50%[skip=nothing_proj] LR",
        "wanda-50%[shares=none.csv] LR",
        "wanda-50%[shares=0.4+nan] LR",
        "wanda-50%[shares=0.4+1.7] LR",
        "wanda-50% LIAR",
        "flap-heads-50% BR[train=masklora,rank=0]",
        "wanda-50% LR " + "x" * 70_000,
        "wanda-50% retrain[objective=nothing]",
        "wanda-50% retrain[objective=hidden,states=nan]",
        "wanda-50% retrain[objective=hidden,states=-1]",
        "wanda-50% retrain[train=projector]",
        "wanda-50% BR[tokens=image]",
        "wanda-50% BR[tokens=some]",
        "wanda-50%[starved=magnitude] LR",
        "wanda-50%[gated=maybe] LR",
        "reap-experts-50% LR",
        "influence-blocks-150% LR",
        "influence-blocks-99% LR",
        "influence-blocks-25% replace+CR",
        "influence-blocks-25% ghost",
        "influence-blocks-1:4 LR",
        "perplexity-blocks-nan% LR",
    ):
        add(f"recipe {recipe[:44]!r}", prune(recipe=recipe), 2, 3, 4)
        add(f"recipe {recipe[:44]!r}", ["plan", *prune(recipe=recipe)[1:]], 2, 3, 4)
    for name in ("deep.toml", "huge.toml", "recipe.toml", "binary.txt", "pipe.txt", "loop.txt", "model", "none.toml"):
        add(f"recipe file {name}", prune(recipe=None, recipe_file=f"{world}/{name}"), 2)
    for option, values in {
        "samples": ["0", "-1", "nan", "1e3", "9" * 400, "1000000"],
        "length": ["0", "1", "-1", "4096", "1099511627776"],
        "seed": ["-1", "x", "1.5", str(2**70), "9" * 5000],
        "held-out-samples": ["0", "-4", "10000000"],
        "documents": ["0", "-1", "x"],
        "dtype": ["int8", "double"],
        "device": ["tpu", "cuda:99", "cuda:-1", "cpu:7"],
        "mode": ["sideways"],
    }.items():
        for value in values:
            argv = prune(
                **{option.replace("-", "_"): value}, **({"task": "lab:yes-no"} if option == "documents" else {})
            )
            add(f"--{option} {value[:16]}", argv, 2, 4, *([3] if option == "device" else []))
            if option in ("samples", "length", "seed"):
                add(f"--{option} {value[:16]}", evaluate(**{option: value}), 2, 4)
    for option, value in (("recipe", "wanda-50% LR"), ("calibration", text), ("samples", "4"), ("out", out)):
        add(f"--{option} twice", [*prune(), f"--{option}={value}"], 2)
    for label in ("calibration", "a\0b", "two"):
        add(f"label {label!r}", prune(held_out=[f"{label}={text}[60%:80%]", f"two={text}[80%:]"]), 2, 4)
    for first, second in (("[:80%]", "[70%:]"), ("[:80%]", ""), ("", "[90%:]"), ("[:60]", "[50:]")):
        add(f"overlapping {first}{second}", prune(calibration=text + first, held_out=text + second), 4)
    for folder in (
        f"{world}/file",
        f"{world}/file/x",
        f"{world}/dangling",
        "/proc/x",
        "/dev/null",
        "~nosuchuser/x",
        "",
        f"{world}/model",
        "/dev/null/x",
        f"{world}/" + "x" * 300,
        f"{world}/" + "x/" * 2500,
        f"{world}/a\0b",
        f"{world}/loop.txt",
        f"{world}/pipe.txt",
    ):
        add(f"--out {folder[-20:]!r}", prune(out=folder), 2, 6)
        add(f"--out {folder[-20:]!r}", ["data", "generate", "lab", "--texts=2", f"--out={folder}"], 2, 6)
        add(f"--out {folder[-20:]!r}", ["lab", "train", "--tokens=4096", f"--out={folder}"], 2, 6)
    for task in (
        "lab:none",
        "hub:typo-of-a-task",
        f"{world}/task.jsonl",
        f"{world}/deep-task.jsonl",
        f"{world}/empty-task.jsonl",
        f"{world}/none.jsonl",
        "",
        "x" * 5000 + ".jsonl",
        f"{world}/pipe.txt",
    ):
        add(f"task {task[-20:]!r}", prune(task=task), 2, 4)
        add(f"task {task[-20:]!r}", ["evaluate", "lab", f"--task={task}"], 2, 4)
    train = {
        "learning-rate": "nan inf -1 0 1e30",
        "weight-decay": "nan -1",
        "decay": "nan 2 -1",
        "warmup": "-1 nan",
        "blocks": "0 -1 100000000",
        "vocabulary": "0 1000000000",
        "hidden": "0 7 -8",
        "heads": "0 5",
        "kv-heads": "0 3",
        "tokens": "0 -5 nan",
        "seed": "-1 x",
        "threads": "0 -1 x",
        "window": "0 100000",
        "batch": "0 -1",
        "experts": "-1 1 x 1000000000",
        "experts-per-token": "0 9 nan",
        "balance": "nan -1",
    }
    for option, values in train.items():
        for value in values.split():
            argv = ["lab", "train", "--tokens=4096", f"--out={world}/train-{option}-{value}", f"--{option}={value}"]
            add(f"train --{option} {value}", argv, 2, 5)
    for option, values in {
        "pictures": "0 -1 x",
        "aligned": "-1 nan",
        "batch": "0 -3",
        "length": "0 1 8 100000",
        "patch": "0 7 -8 48000",
        "hidden": "0 7",
        "blocks": "0 x",
        "heads": "0 5",
        "learning-rate": "nan inf -1",
        "decay": "nan 2",
        "seed": "-1 x",
        "threads": "0 x",
        "decoder": f"lab/encoder {world}/none {world}/remote-code lab/vision/none",
    }.items():
        for value in values.split():
            argv = ["lab", "vision", f"--out={world}/vision-{option}", "--pictures=64", f"--{option}={value}"]
            add(f"vision --{option} {value[-16:]}", argv, 2, 3, 5)
    for option, values in {
        "dropout": "nan 5 -1",
        "learning-rate": "nan inf",
        "examples": "0 -1",
        "scored": "0 1 -1",
        "length": "0 1 100000",
    }.items():
        for value in values.split():
            argv = [
                "lab",
                "finetune",
                "lab/encoder",
                "examples:truth",
                f"--out={world}/tune-{option}-{value}",
                f"--{option}={value}",
            ]
            add(f"finetune --{option} {value}", argv, 2, 4)
    add("finetune a decoder", ["lab", "finetune", "lab", "examples:truth", f"--out={world}/tune"], 2, 3)
    add("finetune remote code", ["lab", "finetune", f"{world}/remote-code", "examples:truth", f"--out={world}/tune"], 3)
    add(
        "finetune labels that are none",
        ["lab", "finetune", "lab/encoder", f"examples:{world}/labels.tsv", f"--out={world}/tune"],
        2,
        4,
    )
    add(
        "finetune into its source",
        ["lab", "finetune", f"{world}/model", "examples:truth", f"--out={world}/model"],
        2,
        3,
        6,
    )
    for option, value in (
        ("texts", "0"),
        ("texts", "-1"),
        ("texts", "x"),
        ("settings", "temperature=nan"),
        ("settings", "top-k=-1"),
        ("settings", "nope=1"),
        ("settings", "tokens=99999999"),
        ("settings", "language=klingon"),
        ("seed", str(2**70)),
    ):
        argv = ["data", "generate", "lab", "--texts=2", f"--out={world}/own.jsonl", f"--{option}={value}"]
        add(f"generate --{option} {value[:20]}", argv, 2, 4)
    add("generate with an encoder", ["data", "generate", "lab/encoder", "--texts=2", f"--out={world}/own.jsonl"], 2, 3)
    add("describe against nothing", ["data", "describe", "lab:stories", "--against="], 2, 4)
    for folder in (
        f"{world}/file",
        f"{world}/dangling",
        "/dev/null",
        f"{world}/model",
        f"{world}/pipe.txt",
        "~nosuchuser/x",
    ):
        add(f"--out {folder[-20:]!r}", ["lab", "vision", "--pictures=64", f"--out={folder}"], 2, 6)
    for option, values in {
        "device-memory": "0 -1GB nan 7QB",
        "host-memory": "x 0 -5 1e400GB",
        "calibrate": f"{world}/deep.json {world}/file {world}/pipe.txt /dev/null",
        "like": f"{world}/deep.json {world}/numbers.json {world}/none.json {world}/model {world}/pipe.txt",
        "placement": "nowhere",
        "save-dtype": "int4",
        "held-out-every": "0 -1 nan x",
        "validation": f"{world}/empty.txt {world}/none.txt lab:none",
        "added-samples": "-1 x",
        "full-test": "yes",
    }.items():
        for value in values.split():
            argv = ["plan", *prune()[1:], f"--{option}={value}"]
            add(f"--{option} {value[-16:]}", argv, 2, 3, 4, 6)
            if option not in ("device-memory", "host-memory", "calibrate", "like"):
                add(f"--{option} {value[-16:]}", [*prune(), f"--{option}={value}"], 2, 4)
    for name in sorted(path.name for path in world.iterdir() if path.is_dir() and path.name != "model"):
        # a plan reads no weight, and no tokenizer before a text is asked for
        right = [0] if "weights" in name or "token" in name or name in ("header-of-2^62", "pickle") else []
        add(f"model {name}", ["plan", f"{world}/{name}", "--recipe=wanda-50% LR"], 2, 3, 4, *right)
    for argv in (["doctor", "now"], ["list", "models", "more"], ["plan"], ["plan", "lab"], ["lab", "vision", "now"]):
        attacks[f"argv {argv}"] = (argv, {2})
    for argv in (
        ["--executor=nobody"],
        ["--executor=slurm[minutes=x]"],
        ["--executor=local[4]"],
        ["--workers=0"],
        ["--workers=x"],
        ["--dry-run", "--preset=none"],
        ["--check", f"--figures={world}/none"],
        ["--preset=none"],
        ["--preset=../../x"],
        ["--only=99_none"],
        ["--set=NOPE=1"],
        ["--set=SEEDS=x"],
        ["--set=SEEDS"],
        ["--set=EPOCHS=nan"],
        [f"--figures={world}/file/x"],
    ):
        add(f"{argv[0][:24]}", ["figures", "--preset=smoke", "--only=01_compounding_error", *argv], 2, 6, 7)
    for argv in (
        [],
        ["purne"],
        ["list", "nothing"],
        ["lab"],
        ["data"],
        ["check"],
        ["prune", "lab", "--reci", "x"],
        ["evaluate", "lab"],
    ):
        attacks[f"argv {argv}"] = (argv, {2})
    return attacks


def python_calls(world: Path) -> dict[str, Callable[[], object]]:
    """Name of the attack: a call of a public function that must raise an `AnalysisError`."""
    import torch

    import analysis
    from analysis import Job, Recipe, Windows, disjoint, grid, load_model, load_tokens, perplexity, prune, run_study

    dense = load_model("lab")
    stories = load_tokens("lab:stories", dense, samples=4, length=32)
    held = load_tokens("lab:stories", dense, samples=4, length=32, split="held-out")
    recipe = Recipe.parse("wanda-50% LR")
    nonsense = [None, 7, -1.5, math.nan, True, b"x", [], {}, object(), "", "\0", "x" * 5000]
    calls: dict[str, Callable[[], object]] = {}

    def each(name: str, function: Callable, values) -> None:
        for value in values:
            calls[f"{name} {str(value)[:24]!r}"] = lambda value=value: function(value)

    each("load_model", load_model, nonsense)
    each("load_model dtype", lambda value: load_model("lab", dtype=value), [7, "int8", torch.int8, [], "double"])
    each("load_model device", lambda value: load_model("lab", device=value), [7, "tpu", "cuda:99", [], ""])
    each("load_tokens source", lambda value: load_tokens(value, dense, samples=4, length=32), nonsense)
    each("load_tokens model", lambda value: load_tokens("lab:stories", value, samples=4, length=32), nonsense[:9])
    numbers = [0, -1, 1.5, math.nan, math.inf, "4", b"", [], 2**70, True]
    each("load_tokens samples", lambda value: load_tokens("lab:stories", dense, samples=value, length=32), numbers)
    each(
        "load_tokens length",
        lambda value: load_tokens("lab:stories", dense, samples=4, length=value),
        [1, *numbers, None],
    )
    seeds = [-1, 1.5, math.nan, "x", 2**70, None, []]
    each("load_tokens seed", lambda value: load_tokens("lab:stories", dense, samples=4, length=32, seed=value), seeds)
    each(
        "load_tokens split",
        lambda value: load_tokens("lab:stories", dense, samples=4, length=32, split=value),
        [7, "test", []],
    )
    each(
        "load_tokens mode",
        lambda value: load_tokens("lab:stories", dense, samples=4, length=32, mode=value),
        [7, "x", []],
    )
    each("Recipe.parse", Recipe.parse, nonsense)
    each("prune model", lambda value: prune(value, recipe, stories), nonsense)
    each("prune recipe", lambda value: prune(dense, value, stories), nonsense)
    each("prune calibration", lambda value: prune(dense, recipe, value), nonsense)
    beyond = Windows(torch.full((2, 8), 10**6), torch.ones(2, 8, dtype=torch.bool))
    each(
        "prune held-out",
        lambda value: prune(dense, recipe, stories, held_out=value),
        [7, "x", b"x", object(), [1], {"a": 1}, {1: held}],
    )
    each("prune measure", lambda value: prune(dense, recipe, stories, measure=value), ["yes", 7, [], math.nan])
    each(
        "prune precision",
        lambda value: prune(dense, recipe, stories, precision=value),
        ["float32", torch.float16, 7, None],
    )
    each(
        "prune checkpoint", lambda value: prune(dense, recipe, stories, checkpoint=value), [7, world / "file", "\0", []]
    )
    calls["prune ids beyond the vocabulary"] = lambda: prune(dense, recipe, beyond)
    calls["prune overlap"] = lambda: prune(dense, recipe, stories, held_out={"a": stories})
    calls["prune label"] = lambda: prune(dense, recipe, stories, held_out={"calibration": held})
    each("perplexity model", lambda value: perplexity(value, held), nonsense[:9])
    each("perplexity windows", lambda value: perplexity(dense, value), nonsense)
    mask = torch.ones(2, 3, dtype=torch.bool)
    each("Windows mask", lambda value: Windows(torch.ones(2, 3).long(), value), [*nonsense[:9], mask.long(), mask[:1]])
    each(
        "Windows ids",
        lambda value: Windows(value, mask),
        [*nonsense[:9], torch.zeros(3), torch.zeros(2, 3), torch.zeros(0, 4).long(), -torch.ones(2, 3).long()],
    )
    each("disjoint", lambda value: disjoint(stories, value), [value for value in nonsense[:9] if value != {}])
    usual = {
        "model": "lab",
        "recipes": ["wanda-50% LR"],
        "calibration": "lab:stories",
        "held_out": {"a": "lab:stories"},
        "samples": 4,
        "length": 32,
    }
    for name in [*usual, "seeds", "added_samples", *(set(Job.__dataclass_fields__) - {"recipe", "seed", *usual})]:
        values = [7.5, object(), math.nan, [object()], [math.nan], b"x", -3]
        each(f"grid {name}", lambda value, name=name: run_study(grid(**(usual | {name: value}))), values)
    each("run_study", run_study, [7, "x", [7], [None], object()])
    each("run_study workers", lambda value: run_study(grid(**usual), workers=value), [0, -1, "x", 1.5, math.nan])
    each("Job", lambda value: Job(**dict.fromkeys(Job.__dataclass_fields__, value)).identity(), [7, object(), math.nan])
    for verb in ("register_criterion", "register_structured_criterion", "register_pattern", "register_solver"):
        each(verb, lambda value, verb=verb: getattr(analysis, verb)(value, value), nonsense)
    return calls
