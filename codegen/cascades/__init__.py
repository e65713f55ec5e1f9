"""Reductions that depend on reductions: which ride along in one pass, by which proved repair. `riding.py` first, then `recipes.py` and `cascade.py`."""
