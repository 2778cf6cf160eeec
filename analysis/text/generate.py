"""Text that a model writes itself: prefixes, the language filter, sampling in batches, and what is thrown away.

    for batch in islice(generate(loaded.model, loaded.tokenizer, Generation(temperature=0.8), seed=0), 4):
        print(batch.texts[0].text, batch.rejected)

As Shin et al. 2024 (appendix C; after LLM-QAT) do it: a random start token, the next four greedily, a redraw where the
prefix is not in the language wanted, the rest sampled until end-of-text. Batch n is a function of model, settings, seed
and n alone.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from analysis.errors import DataError, NumericalError, UsageError, suggest
from analysis.models.context import usable_context
from analysis.models.load import embedding_rows
from analysis.models.quiet import evaluation_mode
from analysis.text.generation import LONGEST_TEXT, Generation
from analysis.text.readers import read
from analysis.text.sources import parse_source
from analysis.text.tokens import tokenise

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

LOOP, PERIOD = 64, 16  # tokens
EMPTY, LANGUAGE, REPETITION = "empty", "language", "repetition"
REJECTIONS: dict[str, str] = {
    EMPTY: "ends before a token is sampled, or holds white space only",
    LANGUAGE: "langdetect finds another language, or none, in the prefix",
    REPETITION: f"a stretch of {LOOP} tokens repeats itself every {PERIOD} tokens or fewer",
}
IN_A_ROW = 256  # prefixes, or texts, rejected one after another, that end the attempt
REFERENCE = 1000  # documents that start tokens and prompts are taken from: the first of their source


@dataclass(frozen=True)
class Text:
    """One text as written: decoded, without special tokens; and the tokens it was written in, prefix included,
    end-of-text not.
    """

    text: str
    tokens: int


@dataclass(frozen=True)
class Batch:
    """The texts of one batch, and how many were rejected for what (`REJECTIONS`)."""

    texts: tuple[Text, ...]
    rejected: dict[str, int]


PLAIN = Generation()  # the model's own distribution


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: Generation = PLAIN,
    *,
    seed: int = 0,
    first: int = 0,
    before: tuple[int, ...] = (),
) -> Iterator[Batch]:
    """Batches of text in the model's own words, without end, from batch number `first` on; each text is written behind
    the token ids `before`, which are no part of it.

    Global random states, the model's mode and its generation settings are left as they are; of the latter none is used.
    Raises UsageError for settings that do not suit the model; DataError where 256 prefixes or texts in a row are
    rejected.
    """
    from analysis.windows import check_count

    check_count("self-generated text", "first", first, least=0)
    writer = Writer(model, tokenizer, settings, seed, before)
    barren = 0
    for number in count(first):
        batch = writer.batch(number)
        yield batch
        barren = 0 if batch.texts else barren + 1
        check_barren(barren, settings, batch.rejected)


def check_barren(batches: int, settings: Generation, rejected: dict[str, int]) -> None:
    """Raise DataError after so many batches in a row without a text that 256 were rejected; `rejected` says for what in
    the last.
    """
    if batches * settings.batch >= IN_A_ROW:
        _refuse(batches * settings.batch, "texts", rejected)


def _refuse(number: int, pieces: str, rejected: dict[str, int]) -> NoReturn:
    reasons = "; ".join(f"{reason}: {REJECTIONS[reason]}" for reason in sorted(rejected))
    raise DataError(
        f"the last {number} {pieces} it began were rejected ({reasons}); try another temperature, top-p, start or"
        " prompt, or leave the language open"
    )


@dataclass(frozen=True, eq=False)
class Writer:
    """A model and how it writes, behind the token ids `before` (`tokens.specials`). Raises UsageError for settings that
    do not suit the model.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    settings: Generation
    seed: int = 0
    before: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        from analysis.models.task_heads import head
        from analysis.windows import check_count

        if self.tokenizer is None or (answered := head(self.model)) != "next token":
            lack = (
                "there is no tokenizer" if self.tokenizer is None else f"{type(self.model).__name__} answers {answered}"
            )
            raise UsageError(
                f"self-generated text: {lack}; give a model that predicts the next token, and its tokenizer"
            )
        if not isinstance(self.settings, Generation):
            raise UsageError(f"self-generated text: settings must be a Generation, not {repr(self.settings)[:40]}")
        check_count("self-generated text", "seed", self.seed, least=0)
        tokens, prefix = self.settings.tokens or 0, self.settings.prefix
        if self._context is not None and max(tokens, prefix + 1) > self._context:
            raise UsageError(
                f"self-generated text: {max(tokens, prefix + 1)} tokens are more than the model's context of"
                f" {self._context}; give a smaller prefix or tokens"
            )
        if prefix >= self.longest:
            raise UsageError(
                f"self-generated text: a prefix of {prefix} leaves nothing to sample of {self.longest} tokens; give"
                f" tokens={2 * prefix}"
            )
        if self.settings.language:
            check_language(self.settings.language)

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        return self.settings.tokens or min(self._context or LONGEST_TEXT, LONGEST_TEXT)

    @property
    def _context(self) -> int | None:
        context = usable_context(self.model)
        return None if context is None else context - len(self.before)

    @cached_property
    def allowed(self) -> list[int]:
        """Token ids a text may start with: known to the tokenizer, embedded by the model, not special."""
        rows = embedding_rows(self.model)
        added = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return sorted(
            number
            for number in set(self.tokenizer.get_vocab().values()) - added - set(self.tokenizer.all_special_ids)
            if number < rows
        )

    @cached_property
    def documents(self) -> list["np.ndarray"]:
        """Token ids of the documents that start tokens or prompts come from; none where there is no reference text."""
        if self.settings.reference is None:
            return []
        texts, _ = read(parse_source(self.settings.reference), seed=self.seed, tokenizer=self.tokenizer)
        return tokenise(list(islice(texts, REFERENCE)), self.tokenizer)

    @cached_property
    def starts(self) -> "Tensor":
        """Weights (vocabulary,) of the start tokens, float64: one each, or how often each occurs in the reference
        text.
        """
        import torch

        weights = torch.zeros(max(self.allowed) + 1, dtype=torch.float64)
        if self.settings.reference is None:
            weights[self.allowed] = 1
            return weights
        allowed = set(self.allowed)
        for token, times in Counter(token for document in self.documents for token in document.tolist()).items():
            if token in allowed:
                weights[token] = times
        if not weights.any():
            raise DataError(f"{self.settings.reference}: holds no token a text can start with")
        return weights

    @cached_property
    def prompts(self) -> "Tensor":
        """First tokens (documents, prefix) of the reference documents that have more of them."""
        import torch

        prefix = self.settings.prefix
        long = [document[:prefix].tolist() for document in self.documents if len(document) > prefix]
        if not long:
            raise DataError(
                f"{self.settings.reference}: none of its {len(self.documents)} documents is longer than a prompt of"
                f" {prefix} tokens"
            )
        return torch.tensor(long)

    def batch(self, number: int) -> Batch:
        """Batch `number`: at most `settings.batch` texts. Raises DataError where 256 prefixes in a row are rejected."""
        import torch

        with evaluation_mode(self.model), torch.no_grad(), _seeded(self.model.device, self.seed, number):
            rejected: Counter[str] = Counter()
            rows = self._sampled(self._prefixes(rejected))
        texts = []
        for row in rows:
            text = self._decoded(row)
            reason = (
                EMPTY if len(row) <= self.settings.prefix or not text.strip() else REPETITION if loops(row) else None
            )
            if reason is None:
                texts.append(Text(text, len(row)))
            else:
                rejected[reason] += 1
        return Batch(tuple(texts), dict(sorted(rejected.items())))

    def _prefixes(self, rejected: Counter) -> "Tensor":
        """A full batch (batch, prefix) of accepted prefixes; counts those it rejects."""
        import torch

        prefixes: list[Tensor] = []
        in_a_row: Counter[str] = Counter()
        while len(prefixes) < self.settings.batch:
            for row in self._drawn():
                if (reason := self._fault(row)) is None:
                    prefixes.append(row)
                    in_a_row.clear()
                    if len(prefixes) == self.settings.batch:
                        break
                    continue
                rejected[reason] += 1
                in_a_row[reason] += 1
                if in_a_row.total() == IN_A_ROW:
                    _refuse(IN_A_ROW, "prefixes", in_a_row)
        return torch.stack(prefixes)

    def _drawn(self) -> "Tensor":
        """As many prefixes (batch, prefix) as a batch has texts, not looked at yet."""
        import torch

        if self.settings.prompt is not None:
            return self.prompts[torch.randint(len(self.prompts), (self.settings.batch,))]
        ids = torch.multinomial(self.starts, self.settings.batch, replacement=True)[:, None]
        return ids if self.settings.prefix == 1 else self._run(ids, self._config(self.settings.prefix)).cpu()

    def _fault(self, prefix: "Tensor") -> str | None:
        if self._end is not None and bool((prefix == self._end).any()) or len(prefix) < self.settings.prefix:
            return EMPTY
        language = self.settings.language
        return LANGUAGE if language and detected(self._decoded(prefix.tolist())) != language else None

    def _sampled(self, ids: "Tensor") -> list[list[int]]:
        """Each prefix with what the model samples after it, end-of-text cut off, in order.

        Whenever half of the rows have ended, the library's loop is left and entered again without them.
        """
        import torch

        sampling = self._config(
            self.longest,
            do_sample=True,
            temperature=self.settings.temperature,
            top_k=self.settings.top_k,
            top_p=self.settings.top_p,
        )
        rows: dict[int, list[int]] = {}
        places = list(range(len(ids)))
        while places:
            ids = self._run(ids, sampling, until_half=True)
            ended = torch.full((len(ids),), ids.shape[1] == self.longest, device=ids.device)
            if self._end is not None:
                ended |= ids[:, -1] == self._end
            for place, row, over in zip(places, ids.tolist(), ended.tolist()):
                if over:
                    rows[place] = (
                        row[: row.index(self._end, self.settings.prefix)]
                        if self._end in row[self.settings.prefix :]
                        else row
                    )
            places = [place for place in places if place not in rows]
            ids = ids[~ended]
        return [rows[place] for place in sorted(rows)]

    def _run(self, ids: "Tensor", config: "GenerationConfig", until_half: bool = False) -> "Tensor":
        """The library's generation, with `config` and nothing of the checkpoint's own."""
        import torch
        from transformers import StoppingCriteria

        class HalfEnded(StoppingCriteria):
            def __call__(criterion, ids, scores, **more):
                ended = ids[:, -1] == self._end
                return torch.full_like(ended, True) if 2 * int(ended.sum()) >= len(ended) else ended

        ids = ids.to(self.model.device)
        ids = torch.cat([ids.new_tensor(self.before).expand(len(ids), -1), ids], dim=1)
        before, self.model.generation_config = self.model.generation_config, config
        try:
            criteria = [HalfEnded()] if until_half and self._end is not None else []
            model: Any = self.model  # transformers' types do not say that a decoder can generate
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=config, stopping_criteria=criteria
            )
            return written[:, len(self.before) :]
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise NumericalError(
                f"self-generated text: the probabilities of the next token are not finite in {self.model.dtype} at a"
                f" temperature of {self.settings.temperature:g}; give a higher temperature, or load the model in"
                " float32"
            ) from error
        finally:
            self.model.generation_config = before

    def _config(self, longest: int, **options) -> "GenerationConfig":
        from transformers import GenerationConfig

        return GenerationConfig(
            max_length=len(self.before) + longest,
            eos_token_id=self._end,
            pad_token_id=0 if self._end is None else self._end,
            use_cache=True,
            **options,
        )

    @property
    def _end(self) -> int | None:
        return self.tokenizer.eos_token_id

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@contextmanager
def _seeded(device, seed: int, number: int):
    """Random numbers of their own for batch `number`, on the CPU and on `device`; the global ones go on as if nothing
    had happened.
    """
    import torch

    batch_seed = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(batch_seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(batch_seed)
        elif device.type == "mps":
            torch.mps.manual_seed(batch_seed)
        yield


def loops(ids: Sequence[int]) -> bool:
    """Whether a stretch of `LOOP` tokens repeats itself every `PERIOD` tokens or fewer."""
    tokens = np.asarray(ids)
    for period in range(1, PERIOD + 1) if len(tokens) >= LOOP else ():
        same = np.concatenate([[0], np.cumsum(tokens[period:] == tokens[:-period])])
        if (same[LOOP - period :] - same[: -(LOOP - period)] == LOOP - period).any():
            return True
    return False


def detected(text: str) -> str | None:
    """The language langdetect finds in a text, always the same one for the same text; None where it finds none."""
    from langdetect import DetectorFactory, LangDetectException, detect

    before, DetectorFactory.seed = DetectorFactory.seed, 0
    try:
        return detect(text)
    except LangDetectException:
        return None
    finally:
        DetectorFactory.seed = before


def check_language(language: str) -> None:
    """Raise UsageError for a language that langdetect does not know."""
    from langdetect import detector_factory

    detector_factory.init_factory()
    languages = sorted(detector_factory._factory.get_lang_list())
    if language not in languages:
        raise UsageError(
            f"self-generated text: language {language!r} is unknown to langdetect; {suggest(language, languages)}"
        )
