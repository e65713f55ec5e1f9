"""What one kernel looks like: from a Graph to stages over shared axes, a role for every axis, and readable Triton text.

Read `lower.py` first: a pass a line. Then `stages.py`, `schedule.py`, `roles.py` and `emit.py`, in running order.
"""
