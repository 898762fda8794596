"""The notebook runs from top to bottom, on a kernel of this interpreter, away from the checkout."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

from flops_fit.notation import flops_text

pytestmark = pytest.mark.docs

NOTEBOOK = Path(__file__).parents[2] / "docs" / "find_optimal.ipynb"


class ThisInterpreter(KernelManager):
    """Whatever kernels are installed on the machine, the one that runs is that of the tests."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    manager = ThisInterpreter()
    NotebookClient(
        notebook,
        km=manager,
        timeout=900,
        startup_timeout=300,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    return notebook, folder


def outputs(notebook) -> list:
    return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def shown(notebook, kind: str) -> list[str]:
    """Everything that the cells display as ``kind``."""
    return [out.data[kind] for out in outputs(notebook) if kind in out.get("data", {})]


def test_every_cell_runs_and_the_answer_has_a_row_for_each_budget(executed):
    notebook, folder = executed
    assert [out for out in outputs(notebook) if out.output_type == "error"] == []
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    (answer,) = (text for text in shown(notebook, "text/plain") if text.startswith("Result: "))
    assert answer.startswith("Result: 24 of 24 runs completed; N* ~ C^")
    flops = [line.split()[0] for line in answer.splitlines()[2:]]
    assert flops == [flops_text(c) for c in (3e7, 1e8, 3e8, 9e8, 3e9)]
    assert len(shown(notebook, "image/png")) == 1
    printed = "".join(out.text for out in outputs(notebook) if out.get("name") == "stdout")
    assert "90% interval" in printed
    assert "verdict: " in printed
    assert (folder / "results" / "notebook" / "results.json").exists()


def test_what_is_committed_has_outputs_of_the_same_kinds_and_is_small(executed):
    committed = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(committed)
    kinds = [
        [sorted(out.get("data", {})) for out in outputs(notebook) if out.get("name") != "stderr"]
        for notebook in (committed, executed[0])
    ]
    assert kinds[0] == kinds[1]
    assert NOTEBOOK.stat().st_size < 200_000
