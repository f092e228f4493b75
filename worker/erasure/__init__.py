"""Erases grants that Auth0 does not have any more."""

from worker.erasure.eraser import Eraser
from worker.erasure.report import ErasureReport

__all__ = ["Eraser", "ErasureReport"]
