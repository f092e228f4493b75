"""Unresolved refusals: the evidence for blame."""
