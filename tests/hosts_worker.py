"""What tests/test_hosts.py runs in processes of their own, as hosts."""

import os
import sys
import time
from pathlib import Path


def main() -> None:
  """`NAME COORDINATOR HOSTS HOST [ARGUMENT]`."""
  name, coordinator, n, i = sys.argv[1:5]
  if name == "quiet":
    from jaxnas import watch

    watch.LOST, watch.LINGER = 4.0, 1.0
  from jaxnas import hosts

  hosts.start(coordinator, int(n), int(i))
  globals()[name](*sys.argv[5:])
  hosts.finish()


def exchange(folder: str) -> None:
  """Messages, errors, arrays and rows between hosts."""
  import jax
  import numpy as np

  from jaxnas import hosts
  from jaxnas.errors import RunError, UserError
  from jaxnas.sharding import make_placement

  n, i = hosts.count(), hosts.index()
  assert (n, i) == (jax.process_count(), jax.process_index())
  assert hosts.is_writer() == (i == 0)
  hosts.barrier("here")
  for first, mine in (
    ([0, "ö", None, 0.1], [i]), ("x" * 5000, ""), ({"a": 0}, {"b": 1}),
  ):  # fmt: skip
    assert hosts.agree(first if i == 0 else mine) == first
  for size in (0, 1, 4086, 4087, 4088, 4089, 8182, 70_001):
    raw = os.urandom(size)
    digest = hosts.agree(raw)
    assert len(digest) == size
    assert len({*hosts.every(digest.hex()[:99])}) == 1
    assert (digest == raw) == (i == 0 or not size)
  assert hosts.every({"host": i}) == [{"host": k} for k in range(n)]

  # One host works, alone; what it raises all raise.
  seen = hosts.once(lambda: [hosts.count(), hosts.once(lambda: i)])
  assert seen == [1, 0]
  for error in (UserError, RunError, OSError):

    def fail(error=error):
      raise error("no")

    try:
      hosts.once(fail)
    except Exception as found:
      kind = RunError if error is OSError and i else error
      assert type(found) is kind, found
      assert "no" in str(found)
    else:
      raise AssertionError("nothing was raised")
  hosts.check_same({"a": 1, "b": [None]})
  try:
    hosts.check_same({"a": 1, "b": i == 1})
  except UserError as found:
    assert "host 1" in str(found)
    assert "b: True there, False on host 0" in str(found)
  else:
    raise AssertionError("a difference was missed")

  placement, rng = make_placement(), np.random.default_rng(0)
  for shape in ((8, 3), (5, 3), ()):
    x = rng.standard_normal(shape)
    for rule in ("replicated", "candidates", "batch"):
      spread = placement.put(x, rule)
      split = shape == (8, 3) and rule != "replicated"
      assert spread.is_fully_replicated != split
      np.testing.assert_array_equal(hosts.gather(spread), np.float32(x))
  whole = rng.integers(0, 9, (7, 2))
  for owners in ([0, 1, 0, 1, 1, 1, 0], [1] * 7):
    owners = np.array(owners)
    found = hosts.gather_rows(whole[owners == i], owners)
    np.testing.assert_array_equal(found, whole)
  files(Path(folder))
  scores()


def files(folder: Path) -> None:
  """One host writes; what all read is what it wrote."""
  from jaxnas import hosts, writer

  own = folder / f"host-{hosts.index()}"  # not shared, so only host 0's counts
  writer.make_folder(own)
  path = own / "a.json"
  for value in range(3):
    assert writer.is_file(path) == (value > 0)
    writer.write_json(path, {"value": value, "host": hosts.index()})
    assert writer.read_json(path) == {"value": value, "host": 0}
  journal = writer.Journal(own / "metrics.jsonl")
  for step in range(4):
    journal.write("train", step=step, host=hosts.index())
  journal.rewind("train", 2)
  assert [row["step"] for row in journal.rows()] == [0, 1, 2]
  assert {row["host"] for row in journal.rows()} == {0}
  writer.remove_folder(own)
  assert not writer.is_folder(own)
  assert [*folder.iterdir()] == []


def scores() -> None:
  """Scorers whose devices are spread over hosts find what one device does."""
  import graphs
  import jax
  import numpy as np
  from plain import dataset
  from tiny import SMALL, shaken

  from jaxnas.config import ScoreConfig
  from jaxnas.nets import BlockSupernet, MaskedSupernet, PathSupernet
  from jaxnas.scoring import BlockScorer, MaskScorer, Scorer
  from jaxnas.sharding import Placement, make_placement
  from jaxnas.spaces import get_space

  mesh = jax.make_mesh(
    (1, 1), ("data", "path"), devices=jax.local_devices()[:1],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )  # fmt: skip
  own, all_ = Placement(mesh), make_placement()
  data, rng = dataset(11), np.random.default_rng(0)
  blocks = get_space(
    "blocks-digits", max_layers=2, stem=4, stages=[[4, 1]]
  ).replace(image_size=6, image_channels=3, n_classes=4)
  masks = graphs.SPACES["shake"]
  archs = np.argwhere(np.ones(SMALL.n_choices)).astype(np.int32)
  drawn = masks.draw(rng, np.full(len(masks.groups), 0.2), 5)
  for kind, net, engine, some in (
    (Scorer, PathSupernet(SMALL), "wavefront", archs),
    (Scorer, PathSupernet(SMALL), "wavefront", archs[:1]),
    (Scorer, PathSupernet(SMALL), "routed", archs),
    (Scorer, PathSupernet(SMALL), "serial", archs),
    (MaskScorer, MaskedSupernet(masks), "serial", drawn),
    (MaskScorer, MaskedSupernet(masks), "wavefront", drawn),
    (BlockScorer, BlockSupernet(blocks), "auto", blocks.sample(rng, 5)),
  ):
    variables = jax.device_get(shaken(net.init(jax.random.key(0))))
    config = ScoreConfig(
      "recalibrate", calibration_images=8, batch_size=4, engine=engine
    )
    found, expected = (
      kind(net, data, config, p)(p.put(variables), some, per_example=True)
      for p in (all_, own)
    )
    for name, values in expected.items():
      assert found[name].dtype == values.dtype, (engine, name)
      np.testing.assert_allclose(
        found[name], values, rtol=1e-6, err_msg=f"{kind} {engine} {name}"
      )


def quiet(folder: str) -> None:
  """Works until it is told to stop, which nobody does."""
  from jaxnas import hosts

  Path(folder, f"at-{hosts.index()}").touch()
  while True:
    hosts.barrier("again")
    time.sleep(0.05)


if __name__ == "__main__":
  main()
