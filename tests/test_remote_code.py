"""No code of a model's folder is ever run: every call that reads one says so."""

import ast

from analysis import paths

WANTED = {"trust_remote_code": False, "local_files_only": True}


def literals(tree):
    """Every dict written down under a name: {name: {key: value}}, values that are no literals left out."""
    return {
        target.id: {
            key.value: value.value
            for key, value in zip(node.value.keys, node.value.values)
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def calls(tree):
    """(line, {option: value}) of every call of a `from_pretrained`, `**name` opened, but those of `type(model)`, a
    class that is here already.
    """
    named = literals(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "from_pretrained"
            and not isinstance(node.func.value, ast.Call)
        ):
            given: dict = {}
            for option in node.keywords:
                if option.arg is None and isinstance(option.value, ast.Name):
                    given |= named.get(option.value.id, {})
                elif isinstance(option.value, ast.Constant):
                    given[option.arg] = option.value.value
            yield node.lineno, given


def test_every_model_and_tokenizer_is_read_from_files_here_and_without_their_code():
    texts = {file: file.read_text("utf-8") for file in sorted((paths.ROOT / "analysis").rglob("*.py"))}
    found = [
        (f"{file}:{line}", {name: given.get(name) for name in WANTED})
        for file, text in texts.items()
        if ".from_pretrained(" in text
        for line, given in calls(ast.parse(text))
    ]
    assert len(found) >= 5 and [place for place, given in found if given != WANTED] == []
    assert list(calls(ast.parse("A.from_pretrained(x, dtype=1)"))) == [(1, {"dtype": 1})]
