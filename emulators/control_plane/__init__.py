"""The control plane's server side: what tests change and look into, behind the emulated services."""
