"""What every service does over HTTP, asked of a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from services.common import problem
from tests.common.service_rig import Service


@pytest.fixture(scope="module")
def http(demo: Service) -> Iterator[httpx2.Client]:
    transport = httpx2.HTTPTransport(uds=str(demo.socket))
    with httpx2.Client(base_url="http://localhost", transport=transport, timeout=15, trust_env=False) as client:
        yield client


def failure(response: httpx2.Response) -> problem.Problem:
    """The problem document of an answer, which must be one."""
    assert response.headers["content-type"] == "application/problem+json"
    document = msgspec.json.decode(response.content, type=problem.Problem)
    assert document.status == response.status_code
    assert document.type == f"urn:backline:problem:{document.code}"
    assert document.request_id == response.headers["x-request-id"]
    return document


def test_a_good_body_reaches_the_handler(http: httpx2.Client) -> None:
    answer = http.post("/v1/echo", json={"name": "a", "size": 3})
    assert (answer.status_code, answer.json()["thing"]) == (200, {"name": "a", "size": 3})


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b'{"name": "a"}', "text/plain", 415, "request.type"),
        (b'{"name": "a"}', "", 415, "request.type"),
        (b"{", "application/json", 400, "request.syntax"),
        (b'{"name": "\xff"}', "application/json", 400, "request.syntax"),
        (b'{"name": 1}', "application/json", 422, "request.body"),
        (b'{"name": "a", "sise": 1}', "application/json; charset=utf-8", 422, "request.body"),
        (b'{"name": "123456789"}', "application/merge+json", 422, "request.body"),
    ],
)
def test_a_wrong_body_is_a_problem(
    http: httpx2.Client, content: bytes, media_type: str, status: int, code: str
) -> None:
    document = failure(http.post("/v1/echo", content=content, headers={"content-type": media_type}))
    assert (document.status, document.code, document.instance) == (status, code, "/v1/echo")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_problem(http: httpx2.Client, chunked: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            yield b"x" * 400

    content = pieces() if chunked else b"x" * 1600
    document = failure(http.post("/v1/echo", content=content, headers={"content-type": "application/json"}))
    assert (document.status, document.code) == (413, "request.size")


def test_a_route_may_have_a_limit_of_its_own(http: httpx2.Client) -> None:
    document = failure(http.post("/v1/large", json={"name": "a" * 50}))
    assert document.code == "request.size"


def test_query_parameters_become_a_struct(http: httpx2.Client) -> None:
    answer = http.get("/v1/things/x%20y", params=[("count", "3"), ("tag", "a"), ("tag", "b")]).json()
    assert (answer["text"], answer["variables"]) == ("3 a+b", {"id": "x y"})


@pytest.mark.parametrize("query", ["count=x", "count=-1", "count=1&count=2", "cuont=1"])
def test_a_wrong_query_is_a_problem(http: httpx2.Client, query: str) -> None:
    assert failure(http.get(f"/v1/things/x?{query}")).code == "request.query"


def test_an_unknown_path_is_a_problem(http: httpx2.Client) -> None:
    document = failure(http.get("/nowhere/é"))
    assert (document.status, document.code, document.instance) == (404, "http.not-found", "/nowhere/%C3%A9")


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(http: httpx2.Client) -> None:
    answer = http.delete("/v1/things/x")
    assert failure(answer).code == "http.method-not-allowed"
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("missing", 404, "thing.unknown"), ("busy", 409, "thing.busy"), ("input", 422, "thing.wrong")],
)
def test_an_expected_failure_keeps_its_code(http: httpx2.Client, kind: str, status: int, code: str) -> None:
    document = failure(http.get(f"/v1/fail/{kind}"))
    assert (document.status, document.code) == (status, code)


def test_a_failure_tells_its_hint_and_not_where_on_this_host(http: httpx2.Client) -> None:
    answer = http.get("/v1/fail/missing")
    assert failure(answer).hint == "look again"
    assert "/etc/secret" not in answer.text


@pytest.mark.parametrize("kind", ["bug", "process"])
def test_an_unexpected_failure_tells_nothing_of_the_inside(http: httpx2.Client, kind: str) -> None:
    answer = http.get(f"/v1/fail/{kind}")
    assert failure(answer).status == 500
    assert not re.search("secret|Traceback|RuntimeError|sh -c", answer.text)


def test_an_unexpected_failure_is_in_the_log_under_its_request_id(http: httpx2.Client, demo: Service) -> None:
    answer = http.get("/v1/fail/bug", headers={"x-request-id": "find-me"})
    assert answer.headers["x-request-id"] == "find-me"
    log = demo.errors.read_text()
    assert "RuntimeError: a secret of the source [find-me]" in log


def test_a_stream_that_breaks_is_cut_off_and_not_ended(http: httpx2.Client) -> None:
    with pytest.raises(httpx2.RemoteProtocolError), http.stream("GET", "/v1/broken") as answer:
        answer.read()


def test_the_request_id_of_the_caller_is_kept_everywhere(http: httpx2.Client) -> None:
    answer = http.get("/v1/whoami", headers={"x-request-id": "abc-1.2:3"})
    assert (answer.headers["x-request-id"], answer.json()["text"]) == ("abc-1.2:3", "abc-1.2:3")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "-a", "a\tb", "<script>"])
def test_a_malformed_request_id_is_replaced(http: httpx2.Client, given: str) -> None:
    made = http.get("/v1/whoami", headers={"x-request-id": given}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", made)


def test_two_requests_have_two_ids(http: httpx2.Client) -> None:
    assert http.get("/version").headers["x-request-id"] != http.get("/version").headers["x-request-id"]


def test_the_version_names_service_and_image(http: httpx2.Client) -> None:
    answer = http.get("/version").json()
    assert (answer["service"], answer["role"], answer["image"]) == ("demo", "gw", "20260101.abc")
    assert re.fullmatch(r"\d+\.\d+.*", answer["version"])


def test_health_follows_the_checks(http: httpx2.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok", "checks": ["store"]}
    http.post("/v1/switch/failing")
    document = failure(http.get("/healthz"))
    http.post("/v1/switch/well")
    assert (document.status, document.detail) == (503, "store: the store is down")
    assert http.get("/healthz").status_code == 200


def metric(text: str, name: str, **labels: str) -> float:
    for line in text.splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_requests_are_counted_by_the_template_of_their_route(http: httpx2.Client) -> None:
    labels = {"method": "GET", "route": "/v1/things/{id}", "status": "200"}
    before = metric(http.get("/metrics").text, "backline_http_requests_total", **labels)
    http.get("/v1/things/one")
    http.get("/v1/things/two")
    text = http.get("/metrics").text
    assert metric(text, "backline_http_requests_total", **labels) == before + 2
    assert "/v1/things/one" not in text


def test_a_client_cannot_make_series(http: httpx2.Client) -> None:
    http.get("/surprise-path")
    http.request("SURPRISE", "/version")
    text = http.get("/metrics").text
    assert "surprise" not in text.lower()
    assert metric(text, "backline_http_requests_total", method="other", route="/version", status="405") >= 1
    assert metric(text, "backline_http_requests_total", method="GET", route="unmatched", status="404") >= 1


def test_metrics_tell_what_runs(http: httpx2.Client) -> None:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert metric(answer.text, "backline_build_info", service="demo", role="gw", image="20260101.abc") == 1


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_the_openapi_document_is_whole(http: httpx2.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= names
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert all("default" in operation["responses"] for operation in operations)


def test_the_openapi_document_has_parameters_bodies_and_answers(http: httpx2.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    parameters = {each["name"]: each for each in paths["/v1/things/{id}"]["get"]["parameters"]}
    assert (parameters["id"]["in"], parameters["id"]["required"]) == ("path", True)
    assert (parameters["count"]["in"], parameters["count"]["description"]) == ("query", "How many")
    assert parameters["tag"]["schema"]["type"] == "array"
    echo = paths["/v1/echo"]["post"]
    assert echo["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Thing"}
    assert {"200", "400", "413", "415", "422", "default"} == set(echo["responses"])
    assert echo["description"] == "Gives back what came in."
