"""The control plane's server: what tests change and inspect."""
