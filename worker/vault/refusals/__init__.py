"""Refusals that are not settled yet: evidence for blame."""
