"""The sweep's own modules import each other by name, as they do where table.py runs as a script."""

import importlib.util
import sys
from pathlib import Path

if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(Path(__file__).parent))
