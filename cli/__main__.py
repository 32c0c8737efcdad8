"""`python -m p2phub.cli`: the program without its script."""

from p2phub.cli.main import main

main()
