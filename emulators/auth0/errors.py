"""Error bodies of the Management API."""

from typing import Any

from starlette.responses import JSONResponse

REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    410: "Gone",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class ApiError(Exception):
    """The request is refused with this status and body."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def body(self) -> dict[str, Any]:
        """Write the body as Auth0 does."""
        body = {
            "statusCode": self.status,
            "error": REASONS.get(self.status, "Error"),
            "message": self.message,
        }
        return body if self.code is None else {**body, "errorCode": self.code}

    def response(self, headers: dict[str, str] | None = None) -> JSONResponse:
        """Answer with it."""
        return JSONResponse(self.body(), self.status, headers=headers)


def invalid_query(message: str) -> ApiError:
    """Refuse a request as Auth0's schema validation does."""
    return ApiError(400, f"Query validation error: {message}", "invalid_query_string")
