"""The vault against the machine and against hand-written code."""
