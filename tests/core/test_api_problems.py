"""What a problem says: the rest framework's sentences in our tone, and names as they are."""

from __future__ import annotations

import pytest
from rest_framework import serializers

from apps.core.api.problems import field_faults
from apps.core.errors import FieldFault


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Not a valid string.", "not a valid string"),
        (
            "Ensure this value is greater than or equal to 1.",
            "ensure this value is greater than or equal to 1",
        ),
        ("A valid integer is required.", "a valid integer is required"),
        ("PATH is Runyard's own; call it something else", None),
        ("Nodes_of_maya is given twice", None),
        ("A is given twice", None),
    ],
)
def test_first_letters(said, shown):
    error = serializers.ValidationError({"parameters": [said]})

    assert list(field_faults(error.detail)) == [FieldFault("parameters", shown or said)]
