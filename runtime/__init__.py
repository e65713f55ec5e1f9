"""What happens at a call: emitted text becomes modules, binaries and launches.

Nothing is imported here: torch and Triton are loaded when they are first needed.
"""
