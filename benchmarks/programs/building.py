"""Imports a location's definitions and builds them, as its code server does before it answers."""

import importlib
import sys

(location,) = sys.argv[1:]
importlib.import_module(f"{location}.definitions").defs().get_repository_def()
