"""How a model's own text is written: the settings of a self-generated source. Imports no torch.

self   self:temperature=0.8,top-p=0.95   self:start=lab:stories,prefix=8   self:prompt=stories.txt[:80%]
self:language=en
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from analysis.errors import UsageError, suggest
from analysis.recipe.fields import Part, count, positive, rule

UNIFORM = "uniform"
LONGEST_TEXT = 2048  # tokens of a text where `tokens` says nothing and the model's context is longer, as in the paper
OPTION = re.compile(r",(?=[a-z-]+=)")  # between options; a comma in a file's name is none
LANGUAGE = re.compile(r"[a-z]{2}(-[a-z]{2})?")

GENERATION_OPTIONS: dict[str, str] = {
    "temperature": "logits are divided by it before sampling; default 1",
    "top-k": "sample among the k likeliest tokens; default 0, all of them",
    "top-p": "sample among the likeliest tokens that make this probability together; default 1, all of them",
    "prefix": (
        "tokens before sampling begins: a start token and the greedy ones after it, or those of a prompt; default 5"
    ),
    "start": (
        "the first token: uniform over the vocabulary without special tokens (default), or a SOURCE whose token"
        " frequencies it is drawn by"
    ),
    "prompt": "a SOURCE: begin with the first tokens of a document of it, drawn at random, instead of a start token",
    "language": "keep a prefix only where langdetect finds this language in it, such as en; default any",
    "tokens": f"most tokens of a text; default the model's context, at most {LONGEST_TEXT}",
    "batch": "texts written at once, which decides the random numbers each gets; default 32",
}


@dataclass(frozen=True)
class Generation(Part):
    """Settings of self-generated text, as in `OPTIONS`; `str` is their canonical text, "" for the defaults, and `parse`
    reads it back.

    The defaults are those of the paper (2406.15524, appendix C, after LLM-QAT): a random start token, the next four
    greedily, the rest sampled from the model's own distribution until end-of-text. The paper also keeps English
    prefixes only; its code leaves top-k to transformers, where it is 50 unless the checkpoint
    says otherwise: `self:language=en,top-k=50`, cut by mode "crop".

    Raises UsageError listing every value that is wrong.
    """

    temperature: float = positive(1.0)
    top_k: int = count(0, 0)
    top_p: float = rule(1.0, float, "a number above 0, at most 1", lambda p: 0 < p <= 1)
    prefix: int = count(5, 1)
    start: str = rule(UNIFORM, str, f"{UNIFORM!r} or a source", bool)
    prompt: str | None = rule(None, str, "a source", bool)
    language: str | None = rule(
        None, str, "a language code of langdetect, such as en or zh-cn", lambda code: bool(LANGUAGE.fullmatch(code))
    )
    tokens: int | None = rule(None, int, "a whole number of at least 2", lambda n: 2 <= n < 2**63)
    batch: int = count(32, 1)

    def __post_init__(self) -> None:
        if problems := [*self._check_fields(), *self._check_together()]:
            raise UsageError(f"self-generated text: {'; '.join(problem.replace('_', '-', 1) for problem in problems)}")

    def _check_together(self) -> Iterator[str]:
        if self.prompt is not None and self.start != UNIFORM:
            yield "a text begins with a start token or with a prompt; leave out start or prompt"
        if isinstance(self.tokens, int) and isinstance(self.prefix, int) and self.tokens <= self.prefix:
            yield f"tokens={self.tokens} leaves nothing to sample after a prefix of {self.prefix}"

    @property
    def reference(self) -> str | None:
        """The source that start tokens or prompts are taken from, None where there is none."""
        return self.prompt or (None if self.start == UNIFORM else self.start)

    def __str__(self) -> str:
        return ",".join(
            f"{name.replace('_', '-')}={value:g}" if isinstance(value, float) else f"{name.replace('_', '-')}={value}"
            for name, value in self.changed().items()
        )

    @classmethod
    def parse(cls, text: str) -> "Generation":
        """`OPTION=VALUE,...`, "" for the defaults. Raises UsageError for an unknown option, one given twice, or a value
        that is none.
        """
        kinds = {f.name.replace("_", "-"): f for f in fields(cls)}
        settings: dict[str, Any] = {}
        for part in OPTION.split(text) if text else []:
            name, equals, value = part.partition("=")
            if not equals or name not in kinds:
                raise UsageError(
                    f"self-generated text: {f'unknown option {name!r}' if equals else f'{part!r} is no OPTION=VALUE'};"
                    f" {suggest(name, kinds)}"
                )
            field = kinds[name]
            if field.name in settings:
                raise UsageError(f"self-generated text: {name} is given twice")
            settings[field.name] = _number(value) if field.metadata["rule"].kind in (int, float) else value
        return cls(**settings)


def _number(text: str) -> float | str:
    """The number a text says; the text itself where it says none, for `Generation` to refuse."""
    try:
        return float(text)
    except ValueError:
        return text
