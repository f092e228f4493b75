"""The control plane's operations, as methods call them."""

from abc import ABC, abstractmethod
from typing import Any

Json = dict[str, Any]
AS_PROVIDER: Any = object()  # a lifetime that is left to the provider


class Operations(ABC):
    """Calls operations of the control plane by name."""

    @abstractmethod
    def _do(self, operation: str, **arguments: Any) -> Any:
        """Carry out one operation. Raises EmulationError."""

    def _object(self, operation: str, **arguments: Any) -> Json:
        return dict(self._do(operation, **arguments))
