"""Requests that schemathesis makes from the description of the HTTP API."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
import schemathesis.schemas
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode, Response
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

# Both are sent as they are.
schemathesis.serializer.alias("application/secevent+jwt", "text/plain")

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# Examples that one seed gives; the next round has another.
ROUND = 100

Case = schemathesis.Case[Any]
Operation = schemathesis.schemas.APIOperation[Any, Any, Any, Any]
Check = Callable[[Case, Response], None]


@dataclass
class Run:
    """What was sent, and what came of it.

    Attributes:
        statuses: of all answers.
        answered: the operations that gave what they are for.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Generator:
    """Sends good and bad requests, and compares the answers with the description.

    Attributes:
        credential: of a caller who may do everything, by the operation's path.
        known: path parameters that lead to something.
        check: what holds beside the description.
    """

    url: str
    credential: Callable[[str], str]
    description: dict[str, Any]
    known: dict[str, Any]
    check: Check

    def run(self, wanted: int, examples: int = ROUND) -> Run:
        """Send this many, at the least, the same ones each time."""
        schema = schemathesis.openapi.from_dict(self.description)
        operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
        run = Run()
        with requests.Session() as session:
            session.trust_env = False
            for number in itertools.count():
                for operation in operations:
                    for strategy, headers in self._strategies(operation):
                        self._send(strategy, number, examples, session, headers, run)
                        if run.sent >= wanted:
                            return run
        raise AssertionError("there is no end to numbers")

    def _strategies(self, operation: Operation) -> Iterator[tuple[SearchStrategy[Case], dict[str, str]]]:
        """Yield strategies, with headers that are not generated."""
        caller = {"Authorization": f"Bearer {self.credential(operation.path)}"}
        names = {each.name for each in operation.path_parameters}
        known = {name: value for name, value in self.known.items() if name in names}
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            yield operation.as_strategy(mode), {} if mode is GenerationMode.NEGATIVE else caller
            if known:
                # Nobody and no account is named: those that are generated lead to nothing.
                yield operation.as_strategy(mode, path_parameters=known, headers={}), caller
            if known and mode is GenerationMode.POSITIVE:
                yield operation.as_strategy(mode, path_parameters=known, headers={}, query={}), caller

    def _send(
        self,
        strategy: SearchStrategy[Case],
        number: int,
        examples: int,
        session: requests.Session,
        headers: dict[str, str],
        run: Run,
    ) -> None:
        @seed(number)
        @settings(
            max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategy)
        def send(case: Case) -> None:
            _limit_wait(case)
            response = case.call(base_url=self.url, session=session, headers=headers)
            run.sent += 1
            run.statuses[response.status_code] += 1
            if response.status_code < 300:
                run.answered.add(case.operation.label)
            case.validate_response(response, checks=CHECKS)
            self.check(case, response)

        try:
            send()
        except Unsatisfiable:
            return  # nothing is bad for an operation without parameters


def _limit_wait(case: Case) -> None:
    """Have no request wait for a refresh that nobody makes."""
    try:
        seconds = float(case.query.get("wait", 5))
    except (TypeError, ValueError, AttributeError):
        return
    if 0 < seconds <= 30:
        case.query["wait"] = 0
