"""A plan as text: kernels, the module around them, and the words of `explain()`. `emit.py` first, then `expressions.py` and `positions.py`."""
