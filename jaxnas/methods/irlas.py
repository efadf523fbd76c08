"""IRLAS: an expert's topology guides BlockQNN's search (arXiv 1812.05285).

    phi(layer): one-hot type, kernel and relative offsets of what it reads
    mu(M) = mean of phi over the layers of block M

    mu_bar <- mu(random policy)                     # inverse reinforcement
    repeat:                                         # learning
      w  <- mu(expert) - mu_bar
      pi <- Q-learning on the reward w . phi alone      # trains no network
      mu_bar <- the point between mu_bar and mu(pi) next to mu(expert)
    F(M) = w . mu(M)                                # mirror stimuli function

    for 178 rounds, epsilon from 1 to 0.1:          # BlockQNN (1708.05552)
      draw 64 blocks, code by code, epsilon-greedily
      R(M) = accuracy(M) + lambda F(M)
      remember; replay 64 blocks in reverse time order:
        Q(s, a) <- (1 - alpha) Q(s, a) + alpha [R / T + gamma max Q(s', .)]
    stack the best block and train it

What is whose: IRLAS's published network (space `irlas-mobile`) is exact; that a
linear function of state features, learned by inverse reinforcement learning,
enters the reward beside accuracy is the paper's; features, solver, lambda and
the expert's encoding are our reconstruction, standard apprenticeship learning
(Abbeel and Ng 2004). BlockQNN's codes, schedule and constants are from
independent sources, four of them recalled. The interpreter supernet, which
takes the place of a short training of every block, is ours.
"""

from jaxnas.methods.base import BlockMethod

METHOD = BlockMethod(
  name="irlas",
  paper="IRLAS: Inverse Reinforcement Learning for Architecture Search,"
  " arXiv 1812.05285",
  fidelity="published network exact, IRL search reconstructed; BlockQNN from"
  " independent sources, four constants recalled; interpreter supernet ours",
)
