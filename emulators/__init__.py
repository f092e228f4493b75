"""An emulated Auth0 tenant and the identity providers behind it, as real HTTP servers on one port.

Written from the vendors' documentation alone: nothing here imports the code under test, so that one
misunderstanding cannot pass on both sides. Start it with `python -m emulators`, or from a test
with `emulators.control.running()`. `control.Emulation` has every operation; those for a tenant of real
size that changes by itself are in `control_scale`.
"""
