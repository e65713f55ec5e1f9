"""Values too large to store: the host computes them chunk after chunk, within a memory budget. `host.py` first."""
