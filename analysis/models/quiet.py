"""Models without chatter, caches and dropout: contexts around loading, saving and forwards."""

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def quiet():
    """Silence transformers' log lines, progress bars and Python warnings while open; errors still rise."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def caching(model: "PreTrainedModel"):
    """While open the config says that the model uses its cache, which is switched off here only for our own forwards:
    users of a saved folder get it back.
    """
    cached = getattr(model.config, "use_cache", True)
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = cached


@contextmanager
def evaluation_mode(model: "nn.Module"):
    """Evaluation mode (no dropout) while open; every module's own mode is restored afterwards, after an error too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
