"""Does F tell an expert from random wiring? Five seeds, every solver.

    python docs/studies/irl.py --seeds 0 1 2 3 4

For each space, solver and seed: the share of fresh random blocks whose F lies
below the expert's, and for the projection how its gap fell.
"""

import argparse
import dataclasses

from jaxnas.config import ExpertConfig
from jaxnas.search import learn_guide
from jaxnas.spaces import expert, get_space

SOLVERS = ("projection", "max-margin", "max-entropy")


def main() -> None:
  """Prints one line for each space and solver."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
  parser.add_argument("--expert", default="resnext-2")
  parser.add_argument(
    "--spaces", nargs="+", default=["blocks-digits", "blocks-cifar"]
  )
  o = parser.parse_args()
  for name in o.spaces:
    for solver in SOLVERS:
      config = dataclasses.replace(ExpertConfig(), solver=solver)
      shares, gaps = [], []
      for seed in o.seeds:
        codes = [expert(o.expert)]
        _, found = learn_guide(get_space(name), codes, config, seed)
        shares.append(found["share_below"])
        gaps.append([row["gap"] for row in found["rows"]])
      line = f"{name} {solver}: " + " ".join(f"{s:.3f}" for s in shares)
      if solver == "projection":
        falls = all(
          b <= a + 1e-12 for g in gaps for a, b in zip(g, g[1:], strict=False)
        )
        line += f"; gap never grows: {falls}"
        line += f", from {max(g[0] for g in gaps):.3f} to at most"
        line += f" {max(g[-1] for g in gaps):.3f}"
      print(line, flush=True)


if __name__ == "__main__":
  main()
