"""The verbs of the command line: one module per verb, with its arguments (`add`) and the function that carries it out.

A verb never prints its result: it returns a `Report`, and `analysis.cli` prints the text, or with `--json` the
document.
"""
