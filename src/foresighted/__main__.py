"""`python -m foresighted`: the command line."""

from foresighted.cli.main import main

raise SystemExit(main())
