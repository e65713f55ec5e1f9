"""Every rewrite rule, filed by the operation it looks at: elementwise algebra, sums and contractions, views."""

from __future__ import annotations

from gradc.rewrites import algebra, sums, views
from gradc.rewrites.rule import DERIVATIVE, ELEMENTWISE, EXACT, REAL, REWRITES, Rewrite

__all__ = ["DERIVATIVE", "ELEMENTWISE", "EXACT", "REAL", "REWRITES", "Rewrite", "algebra", "sums", "views"]
