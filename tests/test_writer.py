import csv
import io
import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas import writer
from jaxnas.writer import (
  Journal,
  Progress,
  read_json,
  write_atomic,
  write_csv,
  write_json,
)


@pytest.fixture
def journal(tmp_path, monkeypatch) -> Journal:
  journal = Journal(tmp_path / "metrics.jsonl")
  monkeypatch.setattr(journal, "_board", False)  # no TensorBoard here
  return journal


def text(journal: Journal) -> str:
  return journal._path.read_text()


def test_write_atomic(tmp_path):
  path = tmp_path / "a.txt"
  write_atomic(path, "höhe\r\n")
  assert path.read_bytes() == "höhe\r\n".encode()
  write_atomic(path, b"\x00\xff")
  assert path.read_bytes() == b"\x00\xff"
  assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_no_half_one(
  tmp_path, monkeypatch, broken
):
  path = tmp_path / "a.txt"
  write_atomic(path, "old")

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(writer.os, broken, fail)
  for write in (
    lambda: write_atomic(path, "new"),
    lambda: write_json(path, {"a": 1}),
    lambda: write_csv(path, [{"a": 1}]),
  ):
    with pytest.raises(OSError, match="disk full"):
      write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
  path = tmp_path / "a.txt"
  write_atomic(path, "old")
  seen = []
  replace = os.replace

  def spy(source, target):
    seen.append((path.read_text(), source.read_text()))
    replace(source, target)

  monkeypatch.setattr(writer.os, "replace", spy)
  write_atomic(path, "new")
  assert seen == [("old", "new")]


def test_values_that_cannot_be_written_leave_nothing(tmp_path):
  with pytest.raises(TypeError):
    write_json(tmp_path / "a.json", {"a": object()})
  with pytest.raises(ValueError, match="b"):
    write_csv(tmp_path / "a.csv", [{"a": 1}, {"a": 1, "b": 2}])
  assert os.listdir(tmp_path) == []


def test_json_and_csv(tmp_path):
  value = {"a": [1, 2.5, None], "ö": {"b": True}}
  write_json(tmp_path / "a.json", value)
  assert read_json(tmp_path / "a.json") == value
  assert (tmp_path / "a.json").read_text().endswith("}\n")
  rows = [{"arch": "203", "note": 'a,"b"\nc'}, {"note": "", "arch": "ö"}]
  write_csv(tmp_path / "a.csv", iter(rows))
  raw = (tmp_path / "a.csv").read_bytes().decode()
  assert raw.startswith("arch,note\n")
  assert "\r" not in raw
  back = list(csv.DictReader(io.StringIO(raw, newline="")))
  assert back == [{"arch": r["arch"], "note": r["note"]} for r in rows]
  write_csv(tmp_path / "empty.csv", [])
  assert (tmp_path / "empty.csv").read_text() == ""


def test_journal_appends_and_reads(journal):
  assert journal.rows() == []
  journal.rewind("train", 0)  # no file yet
  journal.write("train", step=1, loss=0.5)
  journal.write("search", unit="round", round=1, best=float("nan"))
  first, second = journal.rows()
  assert first == {"stage": "train", "step": 1, "loss": 0.5}
  assert second["round"] == 1
  assert second["best"] is None  # NaN is no JSON
  assert text(journal).count("\n") == 2


def test_rewind_drops_only_later_rows_of_its_stage(journal):
  for step in range(1, 6):
    journal.write("train", step=step)
    journal.write("search", unit="round", round=step)
  before = text(journal)
  journal.rewind("train", 5)
  assert text(journal) == before
  journal.rewind("train", 3)
  steps = [r["step"] for r in journal.rows() if r["stage"] == "train"]
  assert steps == [1, 2, 3]
  assert sum(r["stage"] == "search" for r in journal.rows()) == 5
  journal.rewind("search", 2, "round")
  assert len(journal.rows()) == 5
  journal.rewind("train", 0)
  assert all(r["stage"] == "search" for r in journal.rows())


@given(cut=st.integers(0, 40), restored=st.integers(0, 3))
def test_a_killed_journal_ends_equal_to_an_undisturbed_one(
  tmp_path_factory, cut, restored
):
  path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"

  def run(first):
    for step in range(first + 1, 6):
      journal.write("train", step=step, loss=1 / step)

  journal = Journal(path)
  journal._board = False
  run(0)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) - cut])  # what a kill leaves
  journal.rewind("train", restored)
  run(restored)
  assert path.read_bytes() == whole


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_row_after_a_half_written_line_is_whole(journal, cut):
  journal.write("train", step=1)
  journal.write("train", step=2, loss=0.125)
  raw = journal._path.read_bytes()
  journal._path.write_bytes(raw[:-cut])
  # Without a rewind, such as from another stage.
  journal.write("rank", step=9)
  rows = journal.rows()
  assert rows[0] == {"stage": "train", "step": 1}
  assert rows[-1] == {"stage": "rank", "step": 9}
  # A row that lacks its newline only is complete and stays.
  assert len(rows) == (3 if cut == 1 else 2)
  for line in text(journal).splitlines():
    json.loads(line)


def test_journal_feeds_tensorboard_with_numbers_only(journal):
  seen = []

  class Board:
    def add_scalar(self, *args):
      seen.append(args)

  journal._board = Board()
  journal.write("train", step=4, loss=0.5, where="stem")
  journal.write("search", unit="round", round=2, best=1)
  assert seen == [("train/loss", 0.5, 4), ("search/best", 1, 2)]


def test_progress_logs_a_line_now_and_then(caplog, monkeypatch):
  caplog.set_level(logging.INFO, "jaxnas")
  now = [0.0]
  monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
  with Progress("train", 100, done=20) as progress:
    for done in range(21, 61):
      now[0] += 1.0
      progress.update(done, loss=1 / 3)
  # 40 seconds with a line every 15, at one step a second from step 20.
  assert caplog.messages == [
    "train 35/100, about 65 s left, loss 0.3333",
    "train 50/100, about 50 s left, loss 0.3333",
  ]


def test_progress_leaves_compilation_out_of_the_pace(caplog, monkeypatch):
  caplog.set_level(logging.INFO, "jaxnas")
  now = [0.0]
  monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
  with Progress("train", 100) as progress:
    now[0] = 500.0  # the first step compiles
    progress.update(10)
    for done in range(11, 31):
      now[0] += 1.0
      progress.update(done)
  assert caplog.messages == ["train 10/100", "train 25/100, about 75 s left"]


def test_json_is_valid_whatever_the_numbers(tmp_path):
  value = {"a": [float("nan"), 1.5, (float("-inf"), 2)], "b": {"c": 3}}
  write_json(tmp_path / "x.json", value)

  def refuse(constant):
    raise AssertionError(constant)

  raw = (tmp_path / "x.json").read_text()
  back = json.loads(raw, parse_constant=refuse)
  assert back == {"a": [None, 1.5, [None, 2]], "b": {"c": 3}}
