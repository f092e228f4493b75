"""Measures the vault against what the machine allows and what a user would write by hand."""
