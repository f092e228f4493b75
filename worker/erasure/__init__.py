"""Erases what Auth0 does not have any more, and whom the operator is asked to forget."""

from worker.erasure.eraser import Eraser, ErasureReport

__all__ = ["Eraser", "ErasureReport"]
