"""The description of the API is in step with its routes and problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.routing import Route

from worker.api.application import routes
from worker.api.openapi import describe
from worker.api.parameters import _TOKEN_PARAMETERS
from worker.api.problems import PROBLEM_TYPES


def test_every_route_is_described() -> None:
    """Each route and method is described, and nothing else is."""
    served = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in routes()
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD" or route.path.startswith("/v1/proxy")
    }
    described = {(path, method) for path, item in describe()["paths"].items() for method in item}
    assert described == served


def test_every_parameter_is_described() -> None:
    """A user's token takes the parameters that the description names."""
    operation = describe()["paths"]["/v1/users/{user_id}/tokens/{connection}"]["get"]
    assert {each["name"] for each in operation["parameters"] if each["in"] == "query"} == _TOKEN_PARAMETERS


def test_every_problem_is_described() -> None:
    """Each type of problem has a response, and every reference leads somewhere."""
    description = describe()
    assert set(description["components"]["responses"]) == set(PROBLEM_TYPES)
    for reference in references(description):
        found: Any = description
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def references(value: Any) -> Iterator[str]:
    """All ``$ref`` below a value."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)
