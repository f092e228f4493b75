"""Log streams and event streams: the tenant's log and events, pushed.

Shape: https://auth0.com/docs/customize/log-streams/custom-log-streams (content formats),
https://auth0.com/docs/customize/events/create-an-event-stream (CloudEvents to a webhook).
"""

import json
from dataclasses import dataclass
from typing import Any

from emulators.deliveries import Deliveries

Json = dict[str, Any]
FORMATS = ("JSONLINES", "JSONARRAY", "JSONOBJECT", "CLOUDEVENTS")


@dataclass(frozen=True)
class Stream:
    """A receiver, and how it wants events."""

    url: str
    authorization: str
    format: str


class Streams:
    """The tenant's streams."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._streams: list[Stream] = []

    def clear(self) -> None:
        """Delete every stream."""
        self._streams.clear()

    def add(self, url: str, authorization: str, form: str) -> None:
        """Create a stream. Raises ValueError for an unknown format."""
        if form not in FORMATS:
            raise ValueError(f"no stream has format {form!r}")
        self._streams.append(Stream(url, authorization, form))

    def logged(self, entry: Json) -> None:
        """Push an entry of the log."""
        pushed = {"log_id": entry["log_id"], "data": entry}
        for stream in self._streams:
            if stream.format == "CLOUDEVENTS":
                continue
            body: Any = {"JSONARRAY": [pushed], "JSONOBJECT": {"logs": [pushed]}}.get(stream.format, pushed)
            self._push(stream, json.dumps(body) + "\n")

    def happened(self, event: Json) -> None:
        """Push a CloudEvent."""
        for stream in self._streams:
            if stream.format == "CLOUDEVENTS":
                self._push(stream, json.dumps(event))

    def _push(self, stream: Stream, body: str) -> None:
        self._deliveries.post(
            stream.url, body.encode(), Authorization=stream.authorization, Content_Type="application/json"
        )
