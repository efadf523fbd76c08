"""`python -m jaxnas`."""

from jaxnas.cli import main

if __name__ == "__main__":  # processes of `compare --jobs` import this file
  main()
