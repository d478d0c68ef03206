"""``python -m logeion``: the ``logeion`` command."""

from logeion.cli.main import main

main()
