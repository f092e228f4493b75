"""Refusals that are not settled yet, as evidence for whom to blame."""
