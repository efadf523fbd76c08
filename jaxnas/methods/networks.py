"""One plain network: its training, and the check of a winner."""

import jax

from jaxnas.config import RetrainConfig
from jaxnas.data import Batches
from jaxnas.errors import RunError
from jaxnas.methods.setup import Setup
from jaxnas.nets import CompactNetwork, GraphNetwork, Variables
from jaxnas.scoring import NetworkEvaluator
from jaxnas.training import (
  Schedule,
  fit,
  init_state,
  make_network_step,
  make_optimizer,
  make_schedule,
)

Network = CompactNetwork | GraphNetwork


def judge_network(
  setup: Setup, network: Network, variables: Variables, split: str
) -> float:
  """Accuracy of a network on `validation` or `test`."""
  judge = NetworkEvaluator(
    network, setup.data, getattr(setup.data, split),
    setup.config.score.batch_size, setup.placement,
  )  # fmt: skip
  return judge(variables)["accuracy"]


def check_network(
  setup: Setup, network: Network, variables: Variables, searched: float
) -> None:
  """The winner cut out of the supernet must score what the search saw.

  Holds where a plain network can store the statistics: not for `batch`.

  Args:
    setup: the run.
    network: of the winner.
    variables: its inherited weights.
    searched: accuracy in the search.

  Raises:
    RunError: if it does not.
  """
  if setup.config.score.bn_mode == "batch":
    return
  accuracy = judge_network(setup, network, variables, "validation")
  # Another compilation may round borderline images the other way.
  share = 0.001 if setup.config.net.precision == "float32" else 0.01
  if abs(accuracy - searched) > max(2 / len(setup.data.validation), share):
    raise RunError(
      f"the winner outside the supernet scores {accuracy:.4f}, in the search"
      f" {searched:.4f}; please report this"
    )


def network_batches(setup: Setup, stage: str, config: RetrainConfig) -> Batches:
  """Index stream of a stage that trains one network."""
  return Batches(len(setup.data.train), config.batch_size, setup.seed(stage))


def train_network(
  setup: Setup,
  stage: str,
  network: Network,
  start: Variables,
  config: RetrainConfig,
) -> tuple[Variables, float]:
  """Trains a network, or resumes that.

  Args:
    setup: the run.
    stage: name of checkpoints, seeds and log rows.
    network: of the winner.
    start: variables to begin with.
    config: recipe.

  Returns:
    Its variables on the host, and the seconds spent over all sessions.
  """
  batches = network_batches(setup, stage, config)
  per_epoch = batches.steps_per_epoch
  n_steps = config.epochs * per_epoch
  rate = make_schedule(config.optimizer, n_steps, per_epoch)
  tx = make_optimizer(config.optimizer, rate)
  step, names = _step(setup, network, tx, config, n_steps)
  judge = NetworkEvaluator(
    network, setup.data, setup.data.validation,
    setup.config.score.batch_size, setup.placement,
  )  # fmt: skip

  def evaluate(state):
    return {"validation_accuracy": judge(state.variables)["accuracy"]}

  every = config.checkpoint_every * per_epoch
  state, seconds = fit(
    stage, step, init_state(start, tx), setup.key(stage), setup.inputs(batches),
    Schedule(n_steps, config.log_every, every, every),
    setup.checkpoints(stage), setup.journal, setup.placement, names, rate,
    evaluate,
  )  # fmt: skip
  return jax.device_get(state.variables), seconds


def child_accuracy(
  setup: Setup, network: GraphNetwork, config: RetrainConfig, key: jax.Array
) -> float:
  """Validation accuracy of a network after a short training from scratch.

  Nothing is logged or saved. A network that diverges scores NaN.

  Args:
    setup: the run.
    network: of one candidate.
    config: recipe.
    key: PRNG key of initial weights and augmentation.
  """
  batches = network_batches(setup, "child", config)
  per_epoch = batches.steps_per_epoch
  n_steps = config.epochs * per_epoch
  tx = make_optimizer(
    config.optimizer, make_schedule(config.optimizer, n_steps, per_epoch)
  )
  step, _ = _step(setup, network, tx, config, n_steps)
  state = init_state(network.init_variables(key), tx)
  state = setup.placement.scatter(setup.placement.put(state))
  sound = True
  for inputs in setup.inputs(batches).inputs(0, n_steps):
    state, metrics = step(state, key, inputs)
    sound &= metrics["finite"].all()
  state = setup.placement.gather(state)
  if not sound:
    return float("nan")
  return judge_network(setup, network, state.variables, "validation")


def _step(setup, network, tx, config, n_steps):
  names = [node.name for node in network.graph.nodes]
  step = make_network_step(
    network, tx, config.label_smoothing, config.optimizer.clip_norm,
    setup.config.net.bn_momentum, names, n_steps,
    setup.feed(setup.data.train), config.accumulate,
  )  # fmt: skip
  return step, names


def origin_of(config: RetrainConfig) -> str:
  """Where a winner's weights come from, as `retrain.json` says it."""
  if not config.epochs:
    return "not retrained"
  return "inherited" if config.inherit else "scratch"


def judge_winner(
  setup: Setup, network: Network, variables: Variables
) -> dict[str, float]:
  """Stand-alone and test accuracy; this reads the test split.

  Inherited weights that were not retrained have no stand-alone accuracy.
  """
  found = {
    f"{name}_accuracy": judge_network(setup, network, variables, split)
    for name, split in (("standalone", "validation"), ("test", "test"))
  }
  if not setup.config.retrain.epochs:
    del found["standalone_accuracy"]  # it is the supernet accuracy
  return found


def fresh_network(setup: Setup, network: Network, stage: str) -> Variables:
  """Initial variables of a stage's network."""
  return network.init_variables(setup.key(f"{stage}-init"))
