"""Shared by the tests of text."""

import pytest

from tests.helpers.alphabet import END, byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer(eos_token=END)
