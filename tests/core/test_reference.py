"""An OpenAPI description as rows to read."""

from __future__ import annotations

import pytest

from apps.core.reference import Row, rows_of, type_of

SCHEMA = {
    "components": {
        "schemas": {
            "Inner": {
                "type": "object",
                "properties": {"n": {"type": "integer", "description": "How many."}},
                "required": ["n"],
            },
            "Endless": {
                "type": "object",
                "properties": {"again": {"$ref": "#/components/schemas/Endless"}},
            },
        }
    }
}
INNER = {"$ref": "#/components/schemas/Inner"}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"type": "string", "format": "date-time"}, "time"),
        ({"type": "string", "enum": ["a", "b"]}, "“a” or “b”"),
        ({"enum": ["a", None]}, "“a” or null"),
        ({"type": "array", "items": {"type": "integer"}}, "list of integer"),
        ({"type": "array", "items": INNER}, "list of object"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object of string"),
        ({"type": "object", "additionalProperties": {}}, "object"),
        ({"oneOf": [INNER, {"type": "null"}]}, "object or null"),
        ({"anyOf": [{"title": "Shell"}, {"title": "Python"}]}, "Shell or Python"),
        ({"allOf": [INNER], "description": "x"}, "object"),
        ({}, "anything"),
    ],
)
def test_shape_in_a_few_words(shape, words):
    assert type_of(SCHEMA, shape) == words


def test_fields_come_with_those_of_the_objects_they_hold():
    shape = {
        "type": "object",
        "properties": {
            "one": INNER,
            "many": {"type": "array", "items": INNER},
            "maybe": {"oneOf": [INNER, {"type": "null"}], "description": "Or none."},
        },
        "required": ["one"],
    }
    inside = Row("n", "integer", True, "How many.", depth=1)

    assert list(rows_of(SCHEMA, shape)) == [
        Row("one", "object", True, ""),
        inside,
        Row("many", "list of object", False, ""),
        inside,
        Row("maybe", "object or null", False, "Or none."),
        inside,
    ]


def test_shape_that_holds_itself_comes_to_an_end():
    rows = list(rows_of(SCHEMA, {"$ref": "#/components/schemas/Endless"}))

    assert [row.depth for row in rows] == [0, 1, 2, 3]
