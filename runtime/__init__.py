"""What happens at a call: emitted text becomes modules, binaries and launches.

Read `compile.py` first: it is the way from a call to its results. Nothing is imported here: torch and Triton are loaded
when they are first needed.
"""
