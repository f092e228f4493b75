"""Tracebacks as error reporters send them: with the local variables of each frame."""

from __future__ import annotations

import traceback


def rendered(error: BaseException) -> str:
    """Write an exception with its chain and the variables of this project's frames.

    The frames of the test itself are left out: it holds the secrets that are looked for.
    """
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    parts: list[str] = []
    pending: list[traceback.TracebackException | None] = [report]
    while pending:
        each = pending.pop()
        if each is None:
            continue
        parts += each.format_exception_only()
        parts += [
            f"{frame.filename}:{frame.lineno} {frame.name} {frame.locals}"
            for frame in each.stack
            if "/tests/" not in frame.filename
        ]
        pending += [each.__cause__, None if each.__suppress_context__ else each.__context__]
        pending += list(each.exceptions or ())
    return "\n".join(parts)
