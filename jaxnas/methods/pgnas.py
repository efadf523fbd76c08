"""PGNAS: posterior-guided sampling of channels and weights (arXiv 1906.09557).

    for each batch (x, y):                          # Algorithm 1, first half
      for each image i:  eps_i ~ relaxed Bernoulli(p)      # one mask an image
      loss <- cross-entropy(y, f(x; m * eps)) + R(m, p)
      m, logit(p) <- SGD on both                    # p: a rate per kernel group

    R = sum over groups  l^2/N (1-p) ||m||^2
                       + K/N (p log p + (1-p) log(1-p))

    for c = 1..C:                                   # Algorithm 1, second half
      eps_c ~ Bernoulli(p)                          # one hard mask
      accuracy_c <- shared weights * eps_c, on the validation split
    keep the best mask with its weights; no retraining

What is whose: equations, super-networks and constants are the paper's; R is in
the form of the authors' code, which print contradicts in places (options give
the printed form); masks sit on input channels, as in their code. Their scripts
rank candidates on the very images that they report; here the validation split
chooses and the test split is read once. Scoring masks together, the threshold
mask, halving, size targets and the compact network are ours.
"""

from jaxnas.methods.base import MaskMethod

METHOD = MaskMethod(
  name="pgnas",
  paper="Posterior-Guided Neural Architecture Search, arXiv 1906.09557",
  fidelity="equations and super-networks from the paper, regulariser and masks"
  " checked against the authors' code; split, scorer and compact network ours",
)
