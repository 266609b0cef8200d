"""`python -m causeway`: the command line, where `causeway` is not on the path, as in a container."""

from causeway.cli import main

main(prog_name="causeway")
