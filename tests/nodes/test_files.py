"""Bytes under their sha256: all of them or none."""

from __future__ import annotations

import hashlib
import threading
from io import BytesIO

import pytest
from django.core.files.storage import default_storage
from django.db import connection

from apps.core.errors import Conflict
from apps.nodes.services.files import TooLarge, blob_name, open_blob, store
from apps.nodes.services.jobs import create_job, publish_job
from apps.runs.services.prepare import fetch_file
from apps.workflows.services.drafting import delete_workflow
from tests.factories import by_hand, published, workspace


class Failing(BytesIO):
    """A source whose second half cannot be read."""

    def read(self, size=-1):
        if self.tell() > 0:
            raise OSError("no space left on device")
        return super().read(1 << 20)


class Changing(BytesIO):
    """A source that says something else each time it is read, as a job's file may."""

    def seek(self, offset, whence=0):
        self.write(b"EVIL")
        return super().seek(offset, whence)


def test_upload_that_fails_leaves_nothing_and_the_next_one_is_whole():
    data = hashlib.sha256(b"seed").digest() * (1 << 17)
    with pytest.raises(OSError, match="no space"):
        store(Failing(data))

    sha256, size = store(BytesIO(data))

    with open_blob(sha256) as kept:
        assert (size, kept.read()) == (len(data), data)


def test_what_is_kept_is_what_was_hashed():
    sha256, _ = store(Changing(b"genuine bytes"))

    with open_blob(sha256) as kept:
        assert hashlib.sha256(kept.read()).hexdigest() == sha256


def test_more_than_is_allowed_is_not_kept():
    with pytest.raises(TooLarge):
        store(BytesIO(b"12345"), most=4)

    assert not default_storage.exists(blob_name(hashlib.sha256(b"12345").hexdigest()))


def test_bytes_that_changed_in_the_storage_are_not_given_to_a_job(tmp_path):
    sha256, _ = store(BytesIO(b"to be spoilt"))
    with open(default_storage.path(blob_name(sha256)), "r+b") as file:
        file.write(b"EVIL")

    with pytest.raises(OSError, match=r"holds other bytes than script\.py had"):
        fetch_file(sha256, tmp_path / "script.py")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.django_db(transaction=True)
def test_of_two_publishes_at_once_the_second_finds_nothing_to_publish():
    job = create_job(workspace(), "j", "shell", user=None, spec={"content": "true"})
    answers: list[str] = []

    def publish() -> None:
        try:
            answers.append(str(publish_job(job, remarks="", user=None).number))
        except Conflict:
            answers.append("conflict")
        finally:
            connection.close()

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["1", *["conflict"] * 5]


@pytest.mark.django_db
def test_deleted_workflow_starts_no_run():
    version = published("a")
    delete_workflow(version.workflow)

    with pytest.raises(Conflict, match="was deleted"):
        by_hand(version)
