"""`python -m angarium` is the `angarium` command."""

from angarium.cli.main import main

main()
