from __future__ import annotations

import pytest

from apps.runs.services.prepare import keep_python_lock, python_lock

pytestmark = pytest.mark.django_db


def test_lock_counts_in_its_own_workspace_alone_and_the_first_one_stays():
    assert keep_python_lock(1, "digest", "first") == "first"
    assert keep_python_lock(1, "digest", "second") == "first"

    assert (python_lock(1, "digest"), python_lock(2, "digest")) == ("first", None)
    assert keep_python_lock(2, "digest", "theirs") == "theirs"
    assert python_lock(1, "digest") == "first"
