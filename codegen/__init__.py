"""What one kernel looks like: from a Graph to stages over shared axes, a role for every axis, and readable Triton text."""
