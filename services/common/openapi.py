"""OpenAPI 3.1 from the declared operations of an application and the structs that they name.

Nothing is written twice: schemas come from msgspec, parameters from the path template and the query struct, error
answers are all the one problem document. https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping

import msgspec

from services.common import problem
from services.common.codec import json_schemas
from services.common.edge import Operation

_PARAMETER = re.compile(r"\{(?P<name>[^:}]+)(?::(?P<convertor>[^}]+))?\}")
_CONVERTORS: Mapping[str, dict[str, object]] = {
    "int": {"type": "integer", "minimum": 0},
    "float": {"type": "number", "minimum": 0},
    "uuid": {"type": "string", "format": "uuid"},
}

Document = dict[str, object]


def document(operations: Iterable[Operation], *, title: str, version: str, description: str = "") -> Document:
    """The document of a whole application, as plain data."""
    operations = list(operations)
    named = {each: None for one in operations for each in (one.body, one.answer) if each is not None}
    types: list[object] = [problem.Problem, *named]
    schemas, components = json_schemas(types)
    schema_of = dict(zip(types, schemas, strict=True))
    for query in {each.query: None for each in operations if each.query}:  # an enum of a parameter is a component
        _, more = json_schemas([query])
        components |= {name: schema for name, schema in more.items() if name != query.__name__}
    paths: dict[str, dict[str, object]] = {}
    for each in operations:
        path = _PARAMETER.sub(lambda found: "{" + found["name"] + "}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, schema_of)
    info: Document = {"title": title, "version": version}
    if description:
        info["description"] = description
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _operation(each: Operation, schema_of: Mapping[object, dict[str, object]]) -> Document:
    result: Document = {"operationId": each.name, "summary": each.summary}
    if each.description:
        result["description"] = inspect.cleandoc(each.description)
    parameters = _path_parameters(each.path) + (_query_parameters(each.query) if each.query else [])
    if parameters:
        result["parameters"] = parameters
    if each.body is not None:
        result["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema_of[each.body]}}}
    if each.texts:
        content = {text: {"schema": _text_schema(text)} for text in each.texts}
        result["requestBody"] = {"required": True, "content": content}
    success: Document = {"description": "Success"}
    if each.answer is not None:
        success["content"] = {each.media_type: {"schema": schema_of[each.answer]}}
    elif each.answers != ("application/json",):
        success["content"] = {text: {"schema": _text_schema(text)} for text in each.answers}
    responses: dict[str, Document] = {str(each.status): success}
    expected = {
        *each.errors,
        *({400} if each.query else ()),
        *({400, 413, 415, 422} if each.body or each.texts else ()),
    }
    for status in sorted(expected):
        responses[str(status)] = _error(problem.phrase(status), schema_of)
    responses["default"] = _error("Any other failure", schema_of)
    result["responses"] = responses
    return result


def _text_schema(media_type: str) -> dict[str, object]:
    """Of a body that no struct describes: what is not text may be any value."""
    return {"type": "string"} if media_type.startswith("text/") else {}


def _error(description: str, schema_of: Mapping[object, dict[str, object]]) -> Document:
    return {"description": description, "content": {problem.CONTENT_TYPE: {"schema": schema_of[problem.Problem]}}}


def _path_parameters(path: str) -> list[Document]:
    return [
        {
            "name": found["name"],
            "in": "path",
            "required": True,
            "schema": _CONVERTORS.get(found["convertor"] or "str", {"type": "string"}),
        }
        for found in _PARAMETER.finditer(path)
    ]


def _query_parameters(query: type[msgspec.Struct]) -> list[Document]:
    _, components = json_schemas([query])
    schema = components[query.__name__]
    properties, required = schema.get("properties", {}), schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    parameters: list[Document] = []
    for name, each in properties.items():
        parameter: Document = {"name": name, "in": "query", "required": name in required, "schema": each}
        if isinstance(each, dict) and "description" in each:
            parameter["description"] = each["description"]
        parameters.append(parameter)
    return parameters
