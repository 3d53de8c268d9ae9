"""An OpenAPI description as people read it: chapters, and in them one entry an operation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

METHODS = ("get", "post", "put", "patch", "delete")
#: Deeper than this a shape is named and not spread out.
DEPTH = 3


@dataclass(frozen=True)
class Row:
    """One parameter, or one field of a body."""

    name: str
    type: str
    required: bool
    text: str
    #: Where a parameter goes: path, query, header. Empty for a field.
    place: str = ""
    depth: int = 0


@dataclass(frozen=True)
class Content:
    """A body, sent or answered."""

    media_type: str
    rows: list[Row]
    example: str


@dataclass(frozen=True)
class Answer:
    status: str
    content: Content | None


@dataclass(frozen=True)
class Entry:
    name: str
    method: str
    path: str
    summary: str
    text: str
    #: What a token must be good for, and what the user's role must allow; empty: nothing.
    scope: str
    permission: str
    parameters: list[Row]
    body: Content | None
    answers: list[Answer]
    #: Statuses of the problems that it may answer.
    problems: list[str]
    sample: str


@dataclass(frozen=True)
class Chapter:
    title: str
    entries: list[Entry]

    @property
    def anchor(self) -> str:
        return "tag-" + self.title.lower().replace(" ", "-")


def chapters(schema: Json) -> list[Chapter]:
    """The operations of a description by tag, both in the order in which they stand there."""
    found: dict[str, list[Entry]] = {}
    for path, item in schema["paths"].items():
        for method in METHODS:
            if method in item:
                entry = _entry(schema, path, method, item[method])
                found.setdefault(item[method]["tags"][0], []).append(entry)
    return [Chapter(title, entries) for title, entries in found.items()]


def _entry(schema: Json, path: str, method: str, operation: Json) -> Entry:
    answers, problems = [], []
    for status, response in operation["responses"].items():
        content = _content(schema, response.get("content", {}))
        if content and content.media_type.startswith("application/problem"):
            problems.append(status)
        else:
            answers.append(Answer(status, content))
    return Entry(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        text=operation.get("description", ""),
        scope=operation.get("x-runyard-scope", ""),
        permission=operation.get("x-runyard-permission", ""),
        parameters=[
            Row(
                name=each["name"],
                type=type_of(schema, each["schema"]),
                required=each.get("required", False),
                text=each.get("description", ""),
                place=each["in"],
            )
            for each in operation.get("parameters", [])
        ],
        body=_content(schema, operation.get("requestBody", {}).get("content", {})),
        answers=answers,
        problems=problems,
        sample=operation["x-codeSamples"][0]["source"],
    )


def _content(schema: Json, content: Json) -> Content | None:
    for media_type, about in content.items():
        examples = [each["value"] for each in about.get("examples", {}).values()]
        return Content(
            media_type=media_type,
            rows=list(rows_of(schema, about.get("schema", {}))),
            example=_shown(examples[0]) if examples else "",
        )
    return None


def _shown(example: Any) -> str:
    if isinstance(example, str):
        return example
    return json.dumps(example, indent=2, ensure_ascii=False)


def resolved(schema: Json, shape: Json) -> Json:
    """A shape with its reference followed, and with what stands beside the reference."""
    if len(shape.get("allOf", ())) == 1:
        shape = {**shape["allOf"][0], **{k: v for k, v in shape.items() if k != "allOf"}}
    if "$ref" not in shape:
        return shape
    found: Json = schema
    for part in shape["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    beside = {name: value for name, value in shape.items() if name != "$ref"}
    return {**found, **beside}


def rows_of(schema: Json, shape: Json, depth: int = 0) -> Iterator[Row]:
    """The fields of an object, and below each those of the object that it holds."""
    shape = resolved(schema, shape)
    required = shape.get("required", ())
    for name, inside in shape.get("properties", {}).items():
        yield Row(
            name=name,
            type=type_of(schema, inside),
            required=name in required,
            text=resolved(schema, inside).get("description", ""),
            depth=depth,
        )
        if depth < DEPTH:
            yield from rows_of(schema, _held(schema, inside), depth + 1)


def _held(schema: Json, shape: Json) -> Json:
    """The object inside a list, or inside "an object or null"."""
    shape = resolved(schema, shape)
    if "items" in shape:
        return _held(schema, shape["items"])
    options = [each for each in _options(shape) if each.get("type") != "null"]
    return _held(schema, options[0]) if len(options) == 1 else shape


def _options(shape: Json) -> list[Json]:
    return list(shape.get("oneOf") or shape.get("anyOf") or ())


def type_of(schema: Json, shape: Json) -> str:
    """A shape in a few words: "integer", "list of string", "object or null"."""
    shape = resolved(schema, shape)
    if options := _options(shape):
        names = [each.get("title") or type_of(schema, each) for each in options]
        return " or ".join(dict.fromkeys(names))
    if "enum" in shape:
        return " or ".join("null" if each is None else f"“{each}”" for each in shape["enum"])
    kinds = shape.get("type", "anything")
    words = []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "array":
            words.append(f"list of {type_of(schema, shape.get('items', {}))}")
        elif kind == "object" and isinstance(shape.get("additionalProperties"), dict):
            inside = shape["additionalProperties"]
            words.append(f"object of {type_of(schema, inside)}" if inside else "object")
        else:
            words.append({"date-time": "time"}.get(shape.get("format", ""), kind))
    return " or ".join(words)
