"""HTTP clients, and the hosts that they may call."""
