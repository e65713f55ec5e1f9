"""Every rewrite rule, filed by the operation it looks at, in the order they are tried: views, then algebra, then sums."""

from __future__ import annotations

from gradc.rewrites import views, algebra, sums  # noqa: I001 (this is the order the rules are tried in)
from gradc.rewrites.rule import DERIVATIVE, ELEMENTWISE, EXACT, REAL, REWRITES, Rewrite

__all__ = ["DERIVATIVE", "ELEMENTWISE", "EXACT", "REAL", "REWRITES", "Rewrite", "algebra", "sums", "views"]
