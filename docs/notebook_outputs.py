"""Refuse notebooks that carry outputs or execution counts: executed copies are published by `make docs` instead.

python docs/notebook_outputs.py notebooks/*.ipynb
"""

import json
import sys
from pathlib import Path


def cells_with_outputs(notebook: Path) -> list[int]:
    """Indices of the code cells that hold outputs or an execution count."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return [i for i, cell in enumerate(cells) if cell.get("outputs") or cell.get("execution_count")]


def main(names: list[str]) -> int:
    executed = {name: indices for name in names if (indices := cells_with_outputs(Path(name)))}
    for name, indices in executed.items():
        print(f"{name}: outputs in cells {', '.join(map(str, indices))}; clear all outputs before committing")
    return 1 if executed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
