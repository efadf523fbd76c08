"""Work directories in a bucket: files, journal and report without a disk.

The bucket is fsspec's memory file system under the name of Google's. Orbax has
a reader of buckets of its own and is not tested here.
"""

import builtins
import json

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from jaxnas import writer
from jaxnas.config import ExperimentConfig, to_json
from jaxnas.errors import UserError
from jaxnas.report import report
from jaxnas.writer import Journal, as_folder


class Bucket(MemoryFileSystem):
  """Objects in memory under `gs://`."""

  protocol = ("gs", "gcs")
  store: dict = {}
  pseudo_dirs = [""]

  @classmethod
  def _strip_protocol(cls, path):
    path = str(path).removeprefix("gs://").removeprefix("gcs://")
    return "/" + path.strip("/") if path.strip("/") else ""

  def glob(self, path, **kwargs):
    return [p.lstrip("/") for p in super().glob(path, **kwargs)]


@pytest.fixture
def bucket(monkeypatch):
  """A folder of an empty bucket."""
  files = Bucket(skip_instance_cache=True)
  monkeypatch.setattr(
    type(backend.fsspec_backend), "fs", lambda self, path: files
  )
  Bucket.store.clear()
  Bucket.pseudo_dirs[:] = [""]

  def fail(file, mode="r", *rest, **more):
    assert "://" not in str(file), f"{file} was opened as a file"
    return original(file, mode, *rest, **more)

  original = builtins.open
  monkeypatch.setattr(builtins, "open", fail)
  return as_folder("gs://bucket/runs/a")


def test_a_text_says_where_a_folder_is(tmp_path, bucket):
  assert as_folder(str(tmp_path)) == tmp_path
  assert as_folder(tmp_path) is not None
  assert str(bucket) == "gs://bucket/runs/a"
  assert isinstance(bucket, epath.Path)
  assert writer.in_bucket(bucket / "x.json")
  assert not writer.in_bucket(tmp_path)
  with pytest.raises(UserError, match="legal: a folder, or gs://"):
    as_folder("s3://bucket/a")


def test_a_bucket_needs_its_library(monkeypatch):
  def missing(*_):
    raise ImportError("Please install gcsfs")

  monkeypatch.setattr(type(backend.fsspec_backend), "fs", missing)
  with pytest.raises(UserError, match=r"pip install 'jaxnas\[gcs\]'"):
    as_folder("gs://bucket/a")


def test_a_bucket_that_cannot_be_reached(monkeypatch):
  def refused(*_):
    raise PermissionError("no credentials")

  monkeypatch.setattr(type(backend.fsspec_backend), "fs", refused)
  with pytest.raises(UserError, match="PermissionError: no credentials"):
    as_folder("gs://bucket/a")


def test_files_in_a_bucket(bucket):
  writer.make_folder(bucket)
  path = bucket / "a.json"
  assert not writer.is_file(path)
  writer.write_json(path, {"ö": [1, None]})
  assert writer.is_file(path)
  assert writer.read_json(path) == {"ö": [1, None]}
  writer.write_json(path, {"b": 2})
  assert writer.read_json(path) == {"b": 2}
  rows = [{"arch": "2-0", "note": 'a,"b"\nc'}]
  writer.write_csv(bucket / "a.csv", rows)
  assert writer.read_csv(bucket / "a.csv") == rows
  writer.write_arrays(bucket / "early" / "a.npz", {"x": np.arange(3)})
  assert writer.is_folder(bucket / "early")
  found = writer.read_arrays(bucket / "early" / "a.npz")
  np.testing.assert_array_equal(found["x"], np.arange(3))
  assert writer.read_lines(bucket / "a.jsonl") == []
  for text in ("1\n", "2\n"):
    writer.append(bucket / "a.jsonl", text)
  assert writer.read_lines(bucket / "a.jsonl") == ["1", "2"]

  def fill(folder):
    assert folder.is_dir()
    (folder / "one").write_text("1")
    (folder / "two").write_bytes(b"\x00")
    return 0.5

  assert writer.through_disk(bucket / "export", fill) == 0.5
  assert (bucket / "export" / "two").read_bytes() == b"\x00"
  writer.remove_folder(bucket / "early")
  writer.remove_folder(bucket / "early")
  assert sorted(p.name for p in bucket.iterdir()) == [
    "a.csv", "a.json", "a.jsonl", "export",
  ]  # fmt: skip


def test_a_journal_writes_some_rows_at_a_time(bucket, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
  path = bucket / "metrics.jsonl"
  journal = Journal(path)

  def steps():
    text = path.read_text() if path.exists() else ""
    return [json.loads(row)["step"] for row in text.splitlines()]

  for step in range(5):
    now[0] += 10.0
    journal.write("train", step=step, loss=float("nan"))
  assert steps() == [0, 1, 2, 3]  # after more than half a minute
  # What is written later is never ahead of the rows.
  writer.write_json(bucket / "result.json", {})
  assert steps() == [0, 1, 2, 3, 4]
  journal.write("train", step=5)
  writer.flush()
  assert steps() == [0, 1, 2, 3, 4, 5]
  journal.write("train", step=6)
  assert [row["step"] for row in journal.rows()] == [*range(7)]
  journal.write("train", step=7)
  # A run that goes on from a checkpoint at step 3.
  again = Journal(path)
  again.rewind("train", 3)
  assert steps() == [0, 1, 2, 3]
  for step in range(4, 8):
    again.write("train", step=step)
  assert [row["step"] for row in again.rows()] == [*range(8)]
  assert journal._board is False  # TensorBoard cannot write there


def test_a_report_in_a_bucket_is_that_of_a_folder(bucket, tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  rows = [
    {"arch": f"{i}-0", "accuracy": i / 9, "macs": 10 + i, "params": 5}
    for i in range(9)
  ]
  for where in (folder, bucket):
    writer.write_json(where / "config.json", to_json(ExperimentConfig()))
    writer.write_csv(where / "archs.csv", rows)
    Journal(where / "metrics.jsonl").write("train", step=1, loss=0.5)
  page = report(bucket)
  assert str(page) == "gs://bucket/runs/a/report.html"
  assert page.read_text() == report(folder).read_text()
