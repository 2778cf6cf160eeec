"""The verbs of the command line: one module per verb, each a function from parsed arguments to a `Report`.

A verb never prints its result: it returns a `Report`, and `analysis.cli` prints the text, or with `--json` the
document.
"""
