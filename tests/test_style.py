import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_has_nothing_to_say(repo, command):
  done = subprocess.run(
    [sys.executable, "-m", "ruff", *command, "."],
    cwd=repo,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_test_command_of_the_readme(repo):
  command = 'python -m pip install -e ".[dev]" && python -m pytest -n 2'
  readme = (repo / "README.md").read_text()
  assert re.search(rf"^{re.escape(command)}$", readme, re.M)
  assert (repo / ".ci/run").read_text().splitlines()[-1] == command
