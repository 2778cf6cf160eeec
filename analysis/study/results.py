"""Finished runs gathered: one table of each kind, every row with its job in front. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import schema, storage
from analysis.errors import UsageError
from analysis.schema import JOB_FIELDS
from analysis.study.job import Job
from analysis.study.store import StoredRun


@dataclass(frozen=True, eq=False)
class Study:
    """Finished jobs, the names of their runs, and their tables one under another with the job's columns in front
    (`schema.study_columns`). A table is also an attribute: `study.blocks` is `study.tables["blocks"]`.

    provenance: by run name its job, versions, time, and where its windows come from, under "runs".
    """

    jobs: tuple[Job, ...]
    runs: tuple[str, ...]
    tables: Mapping[str, pd.DataFrame]
    provenance: dict[str, Any]

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name in schema.TABLES:
            return self.tables[name]
        raise AttributeError(f"a study has no attribute {name!r}; its tables: {', '.join(schema.TABLES)}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *schema.TABLES})

    def part(self, jobs: Iterable[Job]) -> "Study":
        """The study of some of its jobs, in their order. Raises UsageError for a job that is none of its own."""
        names = dict(zip(self.jobs, self.runs, strict=True))
        chosen = tuple(dict.fromkeys(jobs))
        if strange := [job for job in chosen if job not in names]:
            raise UsageError(
                f"part of a study: {len(strange)} of {len(chosen)} jobs are not in it, the first is {strange[0]}"
            )
        runs = tuple(names[job] for job in chosen)
        front = pd.DataFrame([job.columns(run) for job, run in zip(chosen, runs, strict=True)], columns=JOB_FIELDS)
        tables = {name: _of_jobs(table, front) for name, table in self.tables.items()}
        provenance = self.provenance | {"runs": {run: self.provenance["runs"][run] for run in dict.fromkeys(runs)}}
        return Study(chosen, runs, tables, provenance)


def _of_jobs(table: pd.DataFrame, front: pd.DataFrame) -> pd.DataFrame:
    """The rows of a study's table that belong to jobs, in the order of `front`, what stands before their rows. A run
    may be that of other jobs as well.
    """
    places = front.astype(table.dtypes[JOB_FIELDS]).drop_duplicates(ignore_index=True)
    places["place"] = places.index
    rows = table.merge(places, on=JOB_FIELDS).sort_values("place", kind="stable", ignore_index=True)
    return rows[list(table)]


def gather(runs: Mapping[Job, tuple[str, StoredRun]]) -> Study:
    """A study out of every job's run name and run."""
    front = pd.DataFrame([job.columns(run) for job, (run, _) in runs.items()])
    tables = {}
    for name in schema.TABLES:
        columns, parts = schema.study_columns(name), [stored.tables[name] for _, stored in runs.values()]
        if not any(map(len, parts)):
            tables[name] = schema.conform(name, pd.DataFrame(), columns)
            continue
        jobs = front.loc[front.index.repeat([len(table) for table in parts])].reset_index(drop=True)
        tables[name] = schema.conform(name, jobs.join(pd.concat(parts, ignore_index=True)), columns)
    origin = {
        run: {
            "job": job.to_dict(),
            "versions": stored.manifest["versions"],
            "created": stored.manifest["created"],
            **stored.provenance,
        }
        for job, (run, stored) in runs.items()
    }
    names = tuple(run for run, _ in runs.values())
    return Study(tuple(runs), names, tables, {"schema": storage.SCHEMA, "runs": origin})
