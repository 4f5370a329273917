"""`python -m gsgd` is `gsgd`."""

from gsgd.cli import main

raise SystemExit(main())
