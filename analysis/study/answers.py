"""What the dense and the pruned model answer to multiple-choice tasks, as rows of a run's tables. No torch of its
own.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from analysis.schema import TABLES, validate

if TYPE_CHECKING:
    from analysis.measure.zero_shot import TaskScore
    from analysis.models.load import LoadedModel
    from analysis.pruning.state import Pruned


def with_answers(
    pruned: "Pruned", dense: "LoadedModel", tasks: Sequence[str], documents: int, known: dict[tuple, list["TaskScore"]]
) -> dict[str, pd.DataFrame]:
    """The tables of `pruned` with `zero_shot` filled in, and what asking took in `cost`; as they are where there are no
    tasks.

    known: the dense model's scores by (tasks, documents), looked up here and added to, since they are the same for all
    its runs.
    """
    if not tasks:
        return pruned.tables
    from analysis.measure.cost import Meter
    from analysis.measure.zero_shot import zero_shot

    key, meter = (tuple(tasks), documents), Meter(dense.device)
    with meter.stage(-1, "tasks"):
        if key not in known:
            known[key] = zero_shot(dense.model, dense.tokenizer, tasks, documents=documents)
        scores = {"dense": known[key], "pruned": zero_shot(pruned.model, dense.tokenizer, tasks, documents=documents)}
    names = [column.name for column in TABLES["zero_shot"]]
    answers = pd.DataFrame([{"which": which, **asdict(score)} for which, of in scores.items() for score in of])[names]
    cost = pd.concat([pruned.tables["cost"], pd.DataFrame(meter.rows)], ignore_index=True)
    return pruned.tables | {"zero_shot": validate("zero_shot", answers), "cost": validate("cost", cost)}
