"""The shapes of what comes in and goes out: strict fields, and the page of a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from rest_framework import serializers

from apps.core.paging import PAGE_SIZE
from apps.engine.priority import PRIORITY_WORDS, Priority


class Text(serializers.CharField):
    """A string, exactly as it was sent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """A whole number that PostgreSQL can keep, by default from 0 on; no string, no 3.0."""

    def __init__(self, *, minimum: int = 0, maximum: int = 2**31 - 1, **kwargs: Any) -> None:
        super().__init__(min_value=minimum, max_value=maximum, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:  # True is an int as well
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    """true or false, and no word that means so."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Number(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            self.fail("invalid")
        return super().to_internal_value(data)


class PriorityWord(serializers.ChoiceField):
    """One of the five levels by its name; inside it is the number."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=PRIORITY_WORDS, **kwargs)

    def to_internal_value(self, data: Any) -> Priority:
        return Priority.of(super().to_internal_value(data))

    def to_representation(self, value: Any) -> str:
        return Priority(value).word


class Strict(serializers.Serializer):
    """A body or a query in which every name is known."""

    def to_internal_value(self, data: Any) -> Any:
        faults: dict[str, Any] = {}
        if isinstance(data, Mapping):
            faults = {
                str(name): ["there is no such field here; take it out"]
                for name in data
                if name not in self.fields
            }
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if isinstance(error.detail, dict):
                raise serializers.ValidationError({**error.detail, **faults}) from None
            raise
        if faults:
            raise serializers.ValidationError(faults)
        return values


class PageQuery(Strict):
    before = serializers.IntegerField(
        min_value=1,
        max_value=2**63 - 1,
        required=False,
        help_text="`next` of the page before; without it the list begins.",
    )
    limit = serializers.IntegerField(
        min_value=1, max_value=200, default=PAGE_SIZE, help_text="How many at most."
    )


class VersionBrief(serializers.Serializer):
    """A published version, without what it holds."""

    number = serializers.IntegerField()
    remarks = serializers.CharField(allow_blank=True)
    digest = serializers.CharField(help_text="SHA-256 of what runs; equal for equal content.")
    created_at = serializers.DateTimeField()


@cache
def page_of(item: type[serializers.Serializer]) -> type[serializers.Serializer]:
    """The shape of a list's page."""
    name = item.__name__.removesuffix("Serializer")
    following = serializers.IntegerField(
        allow_null=True, help_text="Pass it on to get what follows; null at the end."
    )
    fields = {"items": item(many=True), "next": following}
    return type(f"{name}PageSerializer", (serializers.Serializer,), fields)


def page_example(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next": None}


def written(shape: type[serializers.Serializer], rows: Iterable[Any]) -> list[dict[str, Any]]:
    """What `shape(rows, many=True).data` is, for less: how to read a row is found out once."""
    write = _writer(shape)  # type: ignore[arg-type]  # a class is its own key
    return [write(row) for row in rows]


@cache
def _writer(shape: type[serializers.Serializer]) -> Callable[[Any], dict[str, Any]]:
    return _writer_of(shape())


def _writer_of(serializer: serializers.Serializer) -> Callable[[Any], dict[str, Any]]:
    """Writes one row as its fields do; what is no plain attribute is left to them."""
    if type(serializer).to_representation is not serializers.Serializer.to_representation:
        return serializer.to_representation
    fields = [
        (str(field.field_name), field, _reader_of(field), _words_of(field))
        for field in serializer.fields.values()
        if not field.write_only
    ]

    def write(row: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field, read, words in fields:
            try:
                value = read(row)
                plain = not callable(value)
            except (AttributeError, ObjectDoesNotExist):
                plain = False
            if not plain:
                try:
                    value = field.get_attribute(row)
                except serializers.SkipField:
                    continue
            found[name] = None if value is None else words(value)
        return found

    return write


def _reader_of(field: serializers.Field) -> Callable[[Any], Any]:
    if type(field).get_attribute is not serializers.Field.get_attribute:
        return field.get_attribute
    path = ".".join(field.source_attrs)
    return attrgetter(path) if path else lambda row: row


def _words_of(field: serializers.Field) -> Callable[[Any], Any]:
    if isinstance(field, serializers.Serializer):
        return _writer_of(field)
    kind = type(field).to_representation
    if kind is serializers.IntegerField.to_representation:
        return int
    if kind is serializers.CharField.to_representation:
        return str
    if type(field) is serializers.DateTimeField and "format" not in field._kwargs:
        return _moment
    return field.to_representation


def _moment(at: datetime) -> str:
    """As DateTimeField writes it here, where all times are UTC."""
    return at.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
