"""The published document against the real application: requests made from it, good ones and bad
ones, none answered with a 5xx, each with a status, headers and a body that the document has.

`WAYPOST_FUZZ_REQUESTS` is how many in all: about a thousand here, `make fuzz` asks for more than
ten thousand. Each finds the same rows, whatever the one before it did."""

import itertools
import os
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import requests
import schemathesis
from django.core.signals import got_request_exception
from django.db import transaction
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.calls import ApiCaller
from tests.api.world import World, make_world

REQUESTS = int(os.environ.get("WAYPOST_FUZZ_REQUESTS", "1000"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SHOWN = 25


@pytest.fixture
def world(settings: Any, now: datetime) -> World:
    settings.WAYPOST_API_RATE = 0
    return make_world(now=now)


@pytest.fixture
def operations(world: World, api: ApiCaller) -> list[Any]:
    document = api.get("schema/?format=json").json()
    schema = schemathesis.openapi.from_dict(document)
    return [found.ok() for found in schema.get_all_operations()]


def test_the_application_does_what_its_document_says(
    operations: list[Any], world: World, api: ApiCaller, raised: list[str]
) -> None:
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    faults: dict[str, str] = {}
    headers = {"Authorization": f"Bearer {api.secret}"}
    kinds = [(mode, known) for mode in GenerationMode for known in (True, False)]
    runs = len(operations) * len(kinds)
    # The first get one more each, so that the sum is right.
    counts = itertools.repeat(REQUESTS // runs + 1, REQUESTS % runs)
    for operation in operations:
        for mode, known in kinds:
            given_path = world.path_parameters(operation.path) if known else None
            strategy = operation.as_strategy(mode, path_parameters=given_path)
            examples = max(1, next(counts, REQUESTS // runs))
            _run(strategy, examples, lambda case: _ask(case, headers, seen, faults))
    total = sum(count for counts in seen.values() for count in counts.values())
    _tell(seen, total)
    shown = "\n\n".join(f"{where}\n{what}" for where, what in list(faults.items())[:SHOWN])
    bugs = "\n\n".join(dict.fromkeys(raised))
    assert not faults, f"{len(faults)} faults in {total} requests\n\n{shown}\n\n{bugs}"
    assert total >= REQUESTS * 0.9


def _run(strategy: Any, examples: int, ask: Callable[[Any], None]) -> None:
    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        ask(case)

    each()


@pytest.fixture
def raised() -> Iterator[list[str]]:
    """The tracebacks of what the application did not expect, newest last."""
    told: list[str] = []

    def note(**_: Any) -> None:
        told.append("".join(traceback.format_exc(limit=-4)))

    got_request_exception.connect(note)
    yield told
    got_request_exception.disconnect(note)


def _ask(
    case: Any, headers: dict[str, str], seen: dict[str, Counter[int]], faults: dict[str, str]
) -> None:
    where = f"{case.method} {case.operation.path}"
    with transaction.atomic():
        response = _sent(case, headers)
        transaction.set_rollback(True)
    seen[where][response.status_code] += 1
    try:
        case.validate_response(response, checks=CHECKS)
    except (FailureGroup, AssertionError) as error:
        faults.setdefault(f"{where} {response.status_code}", _said(error))


def _sent(case: Any, headers: dict[str, str]) -> Response:
    """Straight into the application, in the transaction of the test."""
    how = case.as_transport_kwargs(base_url="http://localhost")
    prepared = requests.Request(**how).prepare()
    body = prepared.body or b""
    own = {k: _text(v) for k, v in prepared.headers.items() if k.lower() != "content-length"}
    own = {k: v for k, v in own.items() if k.lower() != "authorization"} | headers
    answer = Client(raise_request_exception=False).generic(
        str(prepared.method),
        prepared.path_url,
        body.encode() if isinstance(body, str) else body,
        own.get("Content-Type", ""),
        headers=own,
    )
    return Response(
        status_code=answer.status_code,
        headers={name: [value] for name, value in answer.items()},
        content=b"" if answer.streaming else answer.content,
        request=prepared,
        elapsed=0.0,
        verify=False,
    )


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _said(error: BaseException) -> str:
    told = getattr(error, "exceptions", None) or [error]
    return "\n".join(str(each)[:700] for each in told)


def _tell(seen: dict[str, Counter[int]], total: int) -> None:
    statuses: Counter[int] = Counter()
    for counts in seen.values():
        statuses.update(counts)
    print(f"{total} requests to {len(seen)} operations: {dict(sorted(statuses.items()))}")
