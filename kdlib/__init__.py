"""Whom does knowledge distillation hurt, and how to stop it: a reproduction of *Teacher's pet*
(arXiv 2106.10494)."""

import sys

__version__ = "0.1.0"


def __getattr__(name):
    """kdlib.audit(...) and its kin. On demand, so that the command line starts without numpy, and
    an audit of files without torch."""
    if name == "audit":
        from kdlib.auditing.audit import audit

        return audit
    if name == "audit_students":
        from kdlib.auditing.students import audit_students

        return audit_students
    if name == "audit_models":
        from kdlib.asking.models import audit_models

        return audit_models
    if name == "distil":
        from kdlib.distilling.run import distil

        return distil
    said = f"module 'kdlib' has no attribute {name!r}"
    raise AttributeError(said, name=name, obj=sys.modules["kdlib"])  # Python adds the likeliest


def __dir__():
    return [*globals(), "audit", "audit_students", "audit_models", "distil"]
