"""The column "running" of docs/path.md: minutes that the runs behind a notebook's figures took.

ANALYSIS_HOME=FOLDER python docs/times.py

They are the seconds recorded in the stored runs that figures/*.json name, each on one thread, whatever else the machine
did meanwhile.
"""

import json
import sys

import pandas as pd

from analysis import paths


def running(notebook: str) -> tuple[int, float]:
    """The runs behind a notebook's figures, and the minutes that they took. Raises OSError for one not in the store."""
    figures = [json.loads(file.read_text("utf-8")) for file in paths.figures().glob(f"{notebook[:2]}_*.json")]
    runs = sorted({run for figure in figures for run in figure["runs"]})
    return len(runs), sum(pd.read_parquet(paths.runs() / run / "cost.parquet")["seconds"].sum() for run in runs) / 60


def main() -> None:
    """Print a row for each notebook."""
    for file in sorted(paths.notebooks().glob("*.ipynb")):
        try:
            runs, minutes = running(file.stem)
        except OSError as error:
            sys.exit(f"times: {file.stem}: {error}; ANALYSIS_HOME must hold the runs of `make figures`")
        print(f"{file.stem:24}{runs:5} runs {minutes:6.0f} minutes")


if __name__ == "__main__":
    main()
