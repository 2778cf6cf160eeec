"""How many tokens a model can read at once."""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


def usable_context(model: "nn.Module") -> int | None:
    """Most tokens a window for `model` (of transformers) can have; None where nothing bounds it.

    What its config says, and no more than its tables of learned positions hold: tables that begin behind the padding id
    (RoBERTa's kind) have that many rows fewer for text.
    """
    config = cast(Any, model).config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = next((value for name in _POSITIONS if isinstance(value := getattr(config, name, None), int)), None)
    tables = [_rows(module) for name, module in model.named_modules() if _is_positions(name, module)]
    bounds = [rows for rows in (stated, *tables) if rows is not None and rows > 0]
    return min(bounds) if bounds else None


def _is_positions(name: str, module: "nn.Module") -> bool:
    """Whether a module is a table of learned positions in the order of the text."""
    last = name.rpartition(".")[2]
    from torch import nn

    return isinstance(module, nn.Embedding) and last in ("position_embeddings", "embed_positions", "wpe")


def _rows(table: "nn.Module") -> int:
    """Tokens a table of positions can serve."""
    table = cast("nn.Embedding", table)
    offset = cast(Any, table).offset if isinstance(getattr(table, "offset", None), int) else 0
    first = offset if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - first
