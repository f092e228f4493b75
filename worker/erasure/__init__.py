"""Erases what Auth0 does not have any more, and whom the operator is asked to forget."""

from worker.erasure.eraser import Erasure, Swept

__all__ = ["Erasure", "Swept"]
