"""The control plane's client: start, change and inspect an emulation."""

from emulators.client.emulation import Emulation, EmulationError
from emulators.client.process import running
from emulators.idp.tokens import digest

__all__ = ["Emulation", "EmulationError", "digest", "running"]
