"""The HTTPS edge by its own OpenAPI document: schemathesis makes right and wrong requests, and none of them is a surprise."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from ragkeep_gateway.http.limits import Limits
from ragkeep_gateway.http.openapi import document_of
from ragkeep_gateway.http.routes import OPENAPI_PATH, routes_of
from ragkeep_runtime.errors import REASONS
from tests.https import Site

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

DOCUMENT = document_of(routes_of(None), Limits())  # type: ignore[arg-type]  # handlers are not called here
# Who asks is not what is tried here, so nobody is made up: tests/integration/test_http_edge.py walks that.
SCHEMA = schemathesis.openapi.from_dict({**DOCUMENT, "security": []})
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
EXAMPLES = 40
# Nothing here is a defect of ours or of an engine: whatever was sent, these must not come.
NEVER = {"INTERNAL", "ENGINE_FAILED"}


def test_the_document_is_what_is_served(site: Site) -> None:
    """Without a token; every route and every shape that requests are checked with is in it, and nothing that loads anything."""
    served = requests.get(site.url + OPENAPI_PATH, verify=str(site.identity.ca), timeout=60)
    assert served.status_code == 200
    assert served.json() == DOCUMENT
    assert len(OPERATIONS) == len(routes_of(None))  # type: ignore[arg-type]
    assert "http://" not in served.text
    assert "https://" not in served.text


def pointed(body: Any) -> Any:
    """The same with a collection that exists and a question, so that it gets further than the first refusal."""
    if not isinstance(body, dict):
        return body
    if "input" in body:
        return {**body, "model": "multilingual-e5-small"}
    if isinstance(body.get("messages"), list):
        earlier = [one for one in body["messages"] if isinstance(one, dict) and one.get("role") in ("user", "assistant")]
        question = {"role": "user", "content": "打印机脱机"}
        return {**body, "model": "service-tickets", "messages": [*earlier, question], "ragkeep": {}}
    return {**body, "collection": "service-tickets", "question": "打印机脱机"}


CASES = [
    pytest.param(operation, mode, id=f"{operation.label}, {mode.value}")
    for operation in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    # A GET has nothing that could be wrong: its path is walked elsewhere.
    if mode is GenerationMode.POSITIVE or operation.method.upper() == "POST"
]


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_no_request_is_a_surprise(site: Site, operation: Any, mode: GenerationMode) -> None:
    """A documented status; a reason that callers are told of; a stream that ends; never a 5xx; and the gateway grows no fatter."""
    gateway = psutil.Process(site.stack.processes["gateway"].pid)
    token, session, sizes = site.token(), requests.Session(), []

    documented = set(operation.definition.raw["responses"])

    @settings(
        phases=[Phase.generate],
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def sends(case: Any, get_further: bool) -> None:
        if get_further:
            case.body = pointed(case.body)
        who = {"Authorization": f"Bearer {token}"}
        answer = case.call(base_url=site.url, session=session, headers=who, timeout=300, verify=str(site.identity.ca))
        sizes.append(gateway.memory_info().rss)
        # What is wrong with a path or a verb is documented for none.
        assert str(answer.status_code) in documented | {"405"}, answer.text
        assert answer.status_code < 500, answer.text
        assert answer.headers["x-content-type-options"] == ["nosniff"]
        if answer.status_code == 200 and "text/event-stream" in answer.headers["content-type"][0]:
            text = answer.text.rstrip()
            last = text.rpartition("\ndata: ")[2].removeprefix("data: ")
            error = json.loads(last) if last != "[DONE]" else {}
            reason = error.get("error", error).get("reason", "")
            assert last == "[DONE]" or reason or "finish" in error, text[-500:]
        else:
            reason = answer.json()["error"]["reason"] if answer.status_code != 200 else ""
        assert reason in REASONS | {""}
        assert reason not in NEVER

    sends()
    assert len(sizes) >= min(EXAMPLES, 20) or operation.method.upper() == "GET"
    assert sizes[-1] < sizes[0] + 30 * 1024 * 1024
    assert "Traceback" not in site.stack.log("gateway")
    session.close()
