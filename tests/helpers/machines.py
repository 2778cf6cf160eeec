"""A machine whose rates a test knows, and jobs on shapes without a model."""

from transformers import LlamaConfig

from analysis.models.load import described_model
from analysis.models.shape import ModelShape, shape_of
from analysis.study.job import Job
from analysis.study.machine import Machine

GIB = 2**30

MACHINE = Machine(
    device="cpu",
    threads=1,
    products={"float32": ((64, 1e10), (1024, 5e10)), "bfloat16": ((64, 2e10), (1024, 1e11))},
    passes=1e10,
    call=1e-5,
    solves=((64, 1e9), (1024, 1e10)),
    selected=1e8,
    disk=1e8,
    hashed=1e9,
    interpreter=GIB // 2,
    device_memory=0,
    host_memory=16 * GIB,
)


def llama_shape(folder, blocks: int = 32, **sizes) -> ModelShape:
    """The shape of a Llama of 7 billion parameters stored in bfloat16, or with some sizes changed."""
    given = dict(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=32000, dtype="bfloat16")
    config = LlamaConfig(**given | sizes, num_hidden_layers=blocks, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    shape = shape_of(described_model(folder, "llama"), "llama")
    return ModelShape(**vars(shape) | {"stored": {"BF16": shape.parameters}})


def job(recipe: str = "wanda-50% BR+GP", **changes) -> Job:
    """128 windows of 2,048 tokens, as many held out."""
    given = dict(
        model="llama",
        recipe=recipe,
        calibration="lab:stories",
        held_out={"stories": "lab:stories"},
        samples=128,
        length=2048,
    )
    return Job(**given | changes)
