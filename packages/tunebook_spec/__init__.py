"""The spec: what a scenario is, how it is read, and the errors that speak of it."""

from tunebook_spec.loader import LoadedSpec, load, load_gates
from tunebook_spec.spec import Spec

__all__ = ["LoadedSpec", "Spec", "load", "load_gates"]
