"""Whom does knowledge distillation hurt, and how to stop it: a reproduction of *Teacher's pet* (arXiv 2106.10494)."""

__version__ = "0.1.0"
