import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.parametrize("name", ["quickstart"])
def test_notebook_runs_on_its_quicktest(repo, name, tmp_path, monkeypatch):
  monkeypatch.setenv("JAXNAS_VARIANT", "quicktest")
  monkeypatch.setenv("JAXNAS_WORKDIR", str(tmp_path / "run"))
  notebook = nbformat.read(repo / "colab" / f"{name}.ipynb", 4)
  client = NotebookClient(notebook, timeout=600, kernel_name="python3")
  client.execute(cwd=str(tmp_path))
  text = "".join(
    output.get("text", "")
    for c in notebook.cells
    for output in c.get("outputs", [])
  )
  assert "test accuracy" in text
  assert (tmp_path / "run" / "report.html").exists()
