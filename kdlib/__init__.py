"""Whom does knowledge distillation hurt, and how to stop it: a reproduction of *Teacher's pet*
(arXiv 2106.10494)."""

__version__ = "0.1.0"


def __getattr__(name):
    """kdlib.audit(...): see kdlib.auditing.audit. On demand, so that the command line starts
    without numpy."""
    if name == "audit":
        from kdlib.auditing.audit import audit

        return audit
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")
