"""Query parameters, refused as Auth0's schema validation refuses them."""

from typing import Any

from starlette.requests import Request

from emulators.auth0.errors import invalid_query

Json = dict[str, Any]


def chosen(thing: Json, request: Request) -> Json:
    """Keep or drop the top-level `fields`."""
    listed = request.query_params.get("fields")
    if not listed:
        return thing
    names, keep = set(listed.split(",")), flag(request, "include_fields", True)
    return {name: value for name, value in thing.items() if (name in names) == keep}


def number(request: Request, name: str, default: int, most: int | None) -> int:
    """Read a number of at least 0. Raises ApiError."""
    text = request.query_params.get(name, str(default))
    if not text.isdecimal():
        raise invalid_query(f"'Expected type integer but found type string' on property {name}.")
    if most is not None and int(text) > most:
        raise invalid_query(f"'Value {text} is greater than maximum {most}' on property {name}.")
    return int(text)


def flag(request: Request, name: str, default: bool) -> bool:
    """Read true or false. Raises ApiError."""
    text = request.query_params.get(name)
    if text not in (None, "true", "false"):
        raise invalid_query(f"'Expected type boolean but found type string' on property {name}.")
    return default if text is None else text == "true"
