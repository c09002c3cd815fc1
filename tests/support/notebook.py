"""Runs a notebook's cells as Jupyter would, without Jupyter: one process, a cell after the other.

python -m tests.support.notebook docs/tour.ipynb    run it, and write what its cells show into the file
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> None:
    """Run every code cell and put its outputs into it: what is printed, the last expression, figures."""
    import matplotlib

    matplotlib.use("Agg")
    space: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs("".join(cell["source"]), f"<cell {number}>", number, space)


def _outputs(source: str, name: str, number: int, space: dict[str, Any]) -> list[dict[str, Any]]:
    from matplotlib import pyplot

    tree, last = ast.parse(source), None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        last = ast.Expression(tree.body.pop().value)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), space)
        value = None if last is None else eval(compile(last, name, "eval"), space)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        text = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"data": text, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=72, metadata={"Software": None})
        data = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    pyplot.close("all")
    return outputs


def main(path: Path) -> None:
    notebook = json.loads(path.read_text())
    run(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
