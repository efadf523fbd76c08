import re

from jaxnas.tables.load import FORMATS


def test_the_examples_of_the_docs_run(repo, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = (repo / "docs" / "tables.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, re.S)
  assert len(blocks) >= 2
  names: dict = {}
  for block in blocks:
    exec(compile(block, "docs/tables.md", "exec"), names)
  assert names["best"].tolist() == [2, 0, 1]


def test_the_docs_repeat_what_each_accuracy_is(repo):
  text = " ".join((repo / "docs" / "tables.md").read_text().split())
  for reader in FORMATS:
    if hasattr(reader, "ABOUT"):
      assert reader.ABOUT in text, reader.__name__
