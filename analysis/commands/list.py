"""`analysis list`: models, text sources, tasks, recipes and stored runs."""

import argparse
from dataclasses import fields, replace

from analysis import paths
from analysis.commands.arguments import add_verb
from analysis.commands.common import Report, table


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "list",
        list_things,
        "list models, text sources, tasks, recipes or stored runs",
        "  analysis list models\n  analysis list recipes",
    )
    verb.add_argument("what", choices=("models", "sources", "tasks", "recipes", "runs"))


def list_things(args: argparse.Namespace) -> Report:
    """Models, sources, tasks, recipes or runs as a table."""
    header, rows = {"models": _models, "sources": _sources, "tasks": _tasks, "recipes": _recipes, "runs": _runs}[
        args.what
    ]()
    text = table(header, rows) if rows else f"no {args.what} yet"
    if args.what == "models" and paths.elsewhere():
        text += f"\n\nno lab models yet{paths.elsewhere()}"
    return Report(text, {args.what: [dict(zip(header, row)) for row in rows]})


def _models():
    from analysis.models.hub import lab_models
    from analysis.models.packaged import PACKAGED

    packaged = [(model.name, f"{model.meaning}; {model.licence}; {model.how}") for model in PACKAGED.values()]
    return ("model", "what it is"), [(name, "ships with the lab") for name in lab_models()] + packaged


def _sources():
    from analysis.text.sources import SOURCE_FORMS

    return ("source", "what it is"), list(SOURCE_FORMS.items())


def _tasks():
    from analysis.text.tasks import TASK_FORMS

    return ("task", "what it asks"), list(TASK_FORMS.items())


def _recipes():
    from analysis.recipe import words
    from analysis.recipe.presets import PRESETS

    parts = {
        "criterion": {**words.CRITERION_WORDS, **_other_criteria()},
        "refinement": words.REFINEMENT_WORDS,
        "pattern": _patterns(),
        "method": words.METHOD_WORDS,
        "unit": words.UNIT_WORDS,
        "settings": words.SETTING_WORDS,
    }
    rows = [(part, name, _explained(word)) for part, records in parts.items() for name, word in records.items()]
    rows += [
        ("recipe", name, f"{preset.text}: {preset.description} ({preset.source})") for name, preset in PRESETS.items()
    ]
    return ("part", "word", "meaning"), rows + _options()


def _other_criteria():
    """Criteria of whole structures, blocks and experts; where a word is one of weights too, with all its meanings."""
    from analysis.recipe.words import CRITERION_WORDS, DEPTH_WORDS, EXPERT_WORDS, STRUCTURED_WORDS

    groups = (CRITERION_WORDS, STRUCTURED_WORDS, DEPTH_WORDS, EXPERT_WORDS)
    others = STRUCTURED_WORDS | EXPERT_WORDS | DEPTH_WORDS
    joined = lambda name: "; ".join(dict.fromkeys(group[name].meaning for group in groups if name in group))
    return {name: replace(word, meaning=joined(name)) for name, word in others.items()}


def _patterns():
    """How patterns are written, with the kind of each."""
    from analysis.recipe.words import KIND_WORDS, Word

    kinds = {"50%" if name == "weights" else f"{name}-50%": word for name, word in KIND_WORDS.items()}
    return {
        "50%": kinds.pop("50%"),
        "2:4": Word("2:4", "2:4", "keep 2 of every 4 consecutive inputs of each output"),
    } | kinds


def _explained(word):
    return word.meaning + (f" ({word.source})" if word.source else "")


def _options():
    """The options after a pattern and after a method: what takes them, their default, what they mean."""
    from analysis.recipe.recipe import RECIPE_PARTS, Recipe

    rows = {}
    for part in (*RECIPE_PARTS.values(), Recipe):
        for name, declared in {**{f.name: f for f in fields(part)}, **part.declared()}.items():
            rule = declared.metadata.get("rule")
            if rule is None or not rule.meaning:
                continue
            owners = f"of {' and '.join(rule.only)}: " if rule.only else ""
            default = "" if declared.default is None else f"; default {declared.default}"
            rows[part, name] = ("option", name, f"{owners}{rule.meaning}{default}")
    return list(rows.values())


def _runs():
    from analysis.study.store import list_runs

    header = ("run", "state", "created", "model", "recipe", "MiB")
    jobs = [(info, info.job.get("model", ""), info.job.get("recipe", "")) for info in list_runs()]
    return header, [
        (info.run, info.state, info.created, str(model), str(recipe), info.size_mib) for info, model, recipe in jobs
    ]
