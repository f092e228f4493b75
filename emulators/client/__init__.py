"""The client of the control plane: start an emulation, change it, and look into it."""

from emulators.client.emulation import Emulation, EmulationError
from emulators.client.process import running
from emulators.idp.tokens import digest

__all__ = ["Emulation", "EmulationError", "digest", "running"]
