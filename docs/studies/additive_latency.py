"""How additive measured latencies are: an additive fit per device.

`python docs/studies/additive_latency.py --data PATH` reads the measurements of
5,000 networks of the FBNet space on 27 devices (HELP, arXiv 2106.08630, see
`jaxnas/tables/fbnet.py`) and prints, as a Markdown table, how well a fitted
additive table predicts networks that it has not seen (5-fold cross-validation).
`--n 200` fits to fewer of them.
"""

import argparse
from pathlib import Path

import numpy as np

from jaxnas.costs.additive import fit_additive


def _with_interval(e: dict) -> str:
  return f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", type=Path, required=True)
  parser.add_argument("--n", type=int, default=5000)
  options = parser.parse_args()
  with np.load(options.data, allow_pickle=False) as file:
    archs, n_ops = file["arch"][: options.n], len(file["op_names"])
    lat = {k: file[k][: options.n] for k in file.files if k.startswith("lat_")}
  print("| device | ms, median | R2 | Kendall tau-b | Spearman | mean error |")
  print("| --- | --- | --- | --- | --- | --- |")
  fits = {
    device.removeprefix("lat_"): fit_additive(
      archs, values, np.full(archs.shape[1], n_ops), device
    )
    for device, values in lat.items()
  }
  ranked = sorted(fits.items(), key=lambda f: -f[1].held_out["r2"]["value"])
  for device, fit in ranked:
    h = fit.held_out
    cells = (
      device,
      f"{np.median(lat[f'lat_{device}']):.3g}",
      *(_with_interval(h[k]) for k in ("r2", "kendall_tau_b", "spearman")),
      f"{h['mean_relative_error']:.2%}",
    )
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
  main()
