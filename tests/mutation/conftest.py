"""The tests of the mutants import them by the name that ``run.py`` does, from the root of the repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
