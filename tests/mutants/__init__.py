"""Planted bugs, and the tests that must fail when one of them is there."""
