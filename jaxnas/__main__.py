"""`python -m jaxnas`."""

from jaxnas.cli import main

main()
