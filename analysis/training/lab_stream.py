"""What a lab model reads: its tokenizer, its training batches, and its held-out losses, all from the documents of the
lab.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from analysis.lab.documents import REGISTERS, documents
from analysis.lab.versions import DOCUMENTS

if TYPE_CHECKING:
    from analysis.training.settings import Windowed

END = "<|endoftext|>"
"""The one special token: it ends every document, and so begins the next."""


def train_tokenizer(vocabulary: int, *, sample: int = 6_000, seed: int = 0):
    """Byte-level BPE of `vocabulary` tokens (256 bytes and `END` among them) from the first `sample` mixed documents.

    Returns a `transformers.PreTrainedTokenizerFast` whose bos and eos are `END`; digits stand alone, no byte is
    unknown.
    """
    from tokenizers import decoders
    from transformers import PreTrainedTokenizerFast

    core = train_bpe(vocabulary, [END], sample=sample, seed=seed)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )


def train_bpe(vocabulary: int, special: list[str], *, sample: int = 6_000, seed: int = 0, normalizer=None):
    """The core of a lab tokenizer, a `tokenizers.Tokenizer`: byte-level BPE of `vocabulary` tokens, the `special` ones
    first; digits stand alone.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    if normalizer is not None:
        core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((document.text for document in islice(documents("mixed", seed=seed), sample)), trainer)
    return core


def stream(register: str, tokenizer, *, split: str = "train", seed: int = 0) -> Iterator[tuple[list[int], float]]:
    """(token ids ending in `END`, source entropy in nats) of each document of a register, endlessly."""
    for document in documents(register, split=split, seed=seed):
        yield tokenizer.backend_tokenizer.encode(document.text).ids + [tokenizer.eos_token_id], document.nats


def mixed_stream() -> str:
    """The version of the text that lab models are trained on: another one writes other documents."""
    return f"mixed@{DOCUMENTS}"


def take(source: Iterator[tuple[list[int], float]], count: int) -> list[int]:
    """The first `count` tokens of a stream of documents."""
    ids: list[int] = []
    while len(ids) < count:
        ids.extend(next(source)[0])
    return ids[:count]


class StreamBatches:
    """Token batches of the training stream: `batches[n]` has shape (rows, length + 1) and depends on `n` and the config
    alone.

    Step `n` belongs to shard `n // per_shard`; a shard is the mixed stream under its own seed, cut into windows that
    are shuffled within the shard.
    """

    per_shard = 64

    def __init__(self, config: Windowed, tokenizer):
        self.config, self.tokenizer = config, tokenizer
        self._key = (-1, 0)
        self._shard: Any = None

    def __getitem__(self, step: int):
        number, row = divmod(step, self.per_shard)
        key = number, self.config.length(step)
        if key != self._key:
            self._key, self._shard = key, self._load(*key)
        return self._shard[row]

    def _load(self, number: int, window: int):
        import torch

        batch, length = self.config.batch * self.config.window // window, window + 1
        rows = self.per_shard * batch
        ids = take(stream("mixed", self.tokenizer, seed=1 + number + 100_000 * self.config.seed), rows * length)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(number))
        return torch.tensor(ids).view(rows, length)[order].view(self.per_shard, batch, length)


def evaluate(
    model, tokenizer, *, documents_each: int = 60, split: str = "held-out", seed: int = 0
) -> dict[str, dict[str, float]]:
    """Per register, over whole documents: `loss` and `source` entropy in nats per token (`END` included), and `tokens`.

    Each document is read from `END` alone, so the first word is predicted too; documents longer than the model's
    context are cut.
    """
    import torch

    device, context = model.device, model.config.max_position_embeddings
    table = {}
    with torch.no_grad():
        for register in REGISTERS:
            source = stream(register, tokenizer, split=split, seed=seed)
            loss, nats, tokens, length = 0.0, 0.0, 0, 0
            for _ in range(documents_each):
                ids, entropy = next(source)
                row = torch.tensor([[tokenizer.bos_token_id, *ids]], device=device)[:, :context]
                logits = model(row[:, :-1], use_cache=False).logits[0].float()
                loss += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
                nats, tokens, length = nats + entropy, tokens + row.shape[1] - 1, length + len(ids)
            table[register] = {"loss": loss / tokens, "source": nats / length, "tokens": tokens}
    return table
