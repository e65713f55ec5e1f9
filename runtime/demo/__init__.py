"""`gradc demo`: trains on real handwritten digits, then shows and checks the kernels of the very step that it trained with.

Read `digits.py` first: the model and its training step are the only gradc program here. Nothing is imported from this file.
"""
