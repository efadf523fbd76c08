import gzip

import pytest

from jaxnas.errors import UserError
from jaxnas.tables import load_table

CSV = "arch,accuracy\n01,0.5\n"


def test_the_name_of_a_file_does_not_matter(tmp_path):
  path = tmp_path / "anything.bin"
  path.write_bytes(gzip.compress(CSV.encode()))
  assert load_table(str(path)).space.size == 1


def test_a_folder_with_one_table_is_that_table(text_table):
  path = text_table(CSV)
  for name in ("config.json", "metrics.csv", "notes.txt"):
    (path.parent / name).write_text('{"a": 1}')
  assert load_table(path.parent).name == "mine"


def test_a_folder_with_several_tables_lists_them(text_table):
  text_table(CSV)
  path = text_table(CSV, "other.csv")
  with pytest.raises(UserError, match="name one: mine.csv, other.csv"):
    load_table(path.parent)


@pytest.mark.parametrize(
  "content",
  [b"", b"hello", b"\0\1\2", b"PK\3\4zip", b'{"a": 1}', b"a,b\n1,2\n"],
)
def test_what_is_no_table_says_what_is(tmp_path, content):
  path = tmp_path / "file"
  path.write_bytes(content)
  with pytest.raises(UserError, match="is no table; .* a column arch"):
    load_table(path)


def test_an_empty_folder(tmp_path):
  with pytest.raises(UserError, match="holds no table"):
    load_table(tmp_path)


def test_a_damaged_gzip_file(tmp_path):
  path = tmp_path / "t.csv.gz"
  path.write_bytes(gzip.compress(CSV.encode())[:-9])
  with pytest.raises(UserError, match="damaged gzip"):
    load_table(path)


@pytest.mark.parametrize(
  ("name", "origin"),
  [
    ("nas-bench-macro_cifar10.json", "xiusu/NAS-Bench-Macro"),
    ("anb_dataset_jsons.tar.gz", "afzalxo/Accel-NASBench"),
    ("mbnv3w10_evoga_acc.csv", "IntelLabs/DyNAS-T"),
    ("fbnet_arch_latency.npz", "HayeonLee/HELP"),
    ("mine.csv", "a column arch"),
  ],
)
def test_a_missing_file_says_where_to_get_it(tmp_path, name, origin):
  with pytest.raises(UserError, match=f"no table .*{name}.*{origin}"):
    load_table(tmp_path / name)


def test_an_unlisted_arch_names_the_nearest(text_table):
  table = load_table(text_table("arch,accuracy\n00,0.5\n11,0.7\n"))
  with pytest.raises(UserError, match="'01' is not among the 2 rows"):
    table.objective([[0, 1]])
