"""Erases grants that Auth0 lost, and users to forget."""

from worker.erasure.eraser import Eraser
from worker.erasure.report import ErasureReport

__all__ = ["Eraser", "ErasureReport"]
