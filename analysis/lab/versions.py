"""Versions of what the lab writes, raised by hand whenever any of its text changes: stored results are found by them.

`tests/lab/test_versions.py` holds the first documents of each kind against the hash that belongs to its version, so
that a changed text cannot keep its number. A changed comment changes nothing.
"""

DOCUMENTS = 1  # the world and its documents
TASKS = 1  # multiple-choice questions about it
WRITTEN = 1  # questions about it that are answered in writing
EXAMPLES = 1  # labelled examples of it
WORD_KINDS = 1  # what each word of a document is
PICTURES = 2  # pictures, and what is asked and said about them
