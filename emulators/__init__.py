"""The emulated Auth0 tenant and its identity providers, over HTTP.

Written from the vendors' documentation alone: nothing here imports the code under test, so that one
misunderstanding cannot pass on both sides. Start it with `python -m emulators`, or from a test with
`emulators.client.running()`.

`auth0` and `idp` are what it emulates, `control_plane` is the server side of what tests change and look into,
`client` the side that tests hold.
"""
