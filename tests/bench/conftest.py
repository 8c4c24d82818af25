"""Puts `bench/` within reach: it is a folder of the checkout and never installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
