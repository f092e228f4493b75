"""The tenant log, `GET /api/v2/logs`.

It is read by checkpoint, or by search criteria within the first 1,000.
"""

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from emulators.auth0.errors import ApiError, invalid_query
from emulators.auth0.parameters import chosen, flag, number
from emulators.auth0.query import MalformedQuery, parse
from emulators.auth0.settings import Settings
from emulators.auth0.streams import Streams
from emulators.clock import Clock, iso

Json = dict[str, Any]
WINDOW = 1000  # entries that search criteria can page to; checkpoints have no such end


class TenantLog:
    """The kept entries, in the order of their ids."""

    def __init__(self, clock: Clock, settings: Settings, base_url: str, streams: Streams) -> None:
        self._clock = clock
        self._settings = settings
        self._base_url = base_url
        self._streams = streams
        self.clear()

    def clear(self) -> None:
        """Forget every entry; ids go on from the time."""
        self._entries: list[Json] = []
        self._ids: list[str] = []
        self._times: list[float] = []
        self._number = 0
        self._newest_gone = ""

    def write(self, kind: str, **fields: Any) -> Json:
        """Append an entry of a type.

        It shows after the settable delay.
        """
        self._expire()
        # Ids sort in the order of writing, also where the clock was set back.
        now = max(self._clock.now(), self._times[-1] if self._times else 0.0)
        self._number += 1
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d%H%M%S%f")[:17]
        log_id = f"900{moment}{self._number:036d}"
        entry = {"date": iso(now), "type": kind, **fields, "log_id": log_id, "_id": log_id, "isMobile": False}
        self._entries.append(entry)
        self._ids.append(log_id)
        self._times.append(now)
        self._streams.logged(entry)
        return entry

    def answer(self, request: Request, _: Any) -> Any:
        """GET /api/v2/logs."""
        if "from" in request.query_params or "take" in request.query_params:
            return self._by_checkpoint(request)
        return self._by_criteria(request)

    def daily(self, request: Request, _: Any) -> Any:
        """Answer `GET /api/v2/stats/daily`.

        Gives logins and sign-ups of each day that had any; days in UTC as YYYYMMDD.
        """
        begin, end = (request.query_params.get(name, "") for name in ("from", "to"))
        days: dict[str, Json] = {}
        for entry in self._entries:
            day = entry["date"][:10]
            if begin <= day.replace("-", "") <= (end or "9"):
                counts = days.setdefault(day, {"date": f"{day}T00:00:00.000Z", "logins": 0, "signups": 0})
                counts["logins"] += entry["type"] == "s"
                counts["signups"] += entry["type"] == "ss"
        return list(days.values())

    def _by_checkpoint(self, request: Request) -> Response:
        # Any other parameter is ignored here.
        mark, size = request.query_params.get("from", ""), number(request, "take", 50, 100)
        first, last = self._shown()
        if mark and not (mark.isdecimal() and mark.startswith("900")):
            raise invalid_query("'from' is not a log id.")
        if mark and mark <= self._newest_gone and self._settings.log_gone == "400":
            raise ApiError(
                400, "The log event given by from does not exist any more.", "invalid_query_string"
            )
        start = max(first, bisect_right(self._ids, mark))
        found = [chosen(entry, request) for entry in self._entries[start : min(start + size, last)]]
        following = found[-1]["log_id"] if found else mark
        query = urlencode({"from": following, "take": size} if following else {"take": size})
        return JSONResponse(found, headers={"link": f'<{self._base_url}/api/v2/logs?{query}>; rel="next"'})

    def _by_criteria(self, request: Request) -> Any:
        params = request.query_params
        page, size = number(request, "page", 0, None), number(request, "per_page", 50, 100)
        if (page + 1) * size > WINDOW:
            raise ApiError(400, f"You can only page through the first {WINDOW} records.", "invalid_paging")
        if params.get("sort", "date:-1") not in ("date:1", "date:-1"):
            raise invalid_query("'sort' must be date:1 or date:-1.")
        try:
            query = parse(params.get("q", ""))
        except MalformedQuery as wrong:
            raise invalid_query(f"'q' is malformed: {wrong}.") from None
        first, last = self._shown()
        shown = self._entries[first:last]
        found = [entry for entry in shown if query.matches(entry)] if query.parts else shown
        if params.get("sort", "date:-1") == "date:-1":
            found = found[::-1]
        start = page * size
        listed = [chosen(entry, request) for entry in found[start : start + size]]
        if not flag(request, "include_totals", False):
            return listed
        totals = {"start": start, "limit": size, "length": len(listed), "total": len(found)}
        return {**totals, "logs": listed}

    def _shown(self) -> tuple[int, int]:
        self._expire()
        visible = bisect_right(self._times, self._clock.now() - self._settings.log_delay)
        return 0, visible

    def _expire(self) -> None:
        gone = bisect_left(self._times, self._clock.now() - self._settings.log_retention)
        if gone:
            self._newest_gone = self._ids[gone - 1]
            del self._entries[:gone], self._ids[:gone], self._times[:gone]
