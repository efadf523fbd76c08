"""PyTorch peers: the same supernet, run eagerly, beside jaxnas.

    python -m tests.peers score|masks|train|all --json

from the root of the checkout, with the extra `peers` installed.
"""
