"""Secrets: set, never read back, and hidden wherever a job that has them is seen."""

from __future__ import annotations

import re
import subprocess

import pytest

from apps.core.errors import Invalid, NotFound
from apps.engine.roles import Role
from apps.runs.logs import log_of
from apps.runs.models import Attempt
from apps.workspaces.models import Secret
from apps.workspaces.secrets import Unreadable, delete_secret, secret_values, set_secret
from tests.api import body_of, program
from tests.factories import by_hand, job, published, workspace
from tests.html import errors, rows
from tests.people import client_of, member, user
from tests.waiting import until

CANARY = "canary-4711-of-the-warehouse"


@pytest.mark.django_db
def test_a_secret_is_kept_encrypted_for_its_own_name_and_workspace(settings):
    row = set_secret(workspace(), "PASSWORD", CANARY, user=None)
    other = set_secret(workspace(), "OTHER", "something else", user=None)

    assert secret_values(workspace().pk, ["PASSWORD", "NONE"]) == {"PASSWORD": CANARY}
    assert CANARY.encode() not in bytes(row.sealed)

    Secret.objects.filter(pk=other.pk).update(sealed=row.sealed)
    with pytest.raises(Unreadable, match="OTHER was set with another key"):
        secret_values(workspace().pk, ["OTHER"])
    settings.SECRETS_KEY = "another key"
    with pytest.raises(Unreadable, match="PASSWORD"):
        secret_values(workspace().pk, ["PASSWORD"])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("1ST", "long enough"),
        ("A-B", "long enough"),
        ("RUNYARD_RUN", "long enough"),
        ("A" * 65, "long enough"),
        ("A", "short"),
        ("A", "a NUL \0 in it"),
        ("A", "x" * 16_385),
    ],
)
def test_what_is_no_secret_is_refused(name, value):
    with pytest.raises(Invalid):
        set_secret(workspace(), name, value, user=None)
    with pytest.raises(NotFound):
        delete_secret(workspace(), name)


@pytest.mark.django_db
def test_rest_sets_and_deletes_and_never_gives_back():
    owner = program(Role.OWNER)

    made = owner.put("secrets/PASSWORD", {"value": CANARY})
    listed = program(Role.GUEST).get("secrets")

    assert made.status_code == 200
    [shown] = listed.json()["items"]
    assert (shown["name"], shown["changed_by"]) == ("PASSWORD", "owner")
    assert CANARY.encode() not in made.content + listed.content
    assert owner.put("secrets/PASSWORD", {"value": "x"}).status_code == 422
    assert program(Role.DATA_ENGINEERING).put("secrets/A", {"value": CANARY}).status_code == 403
    assert owner.delete("secrets/PASSWORD").status_code == 204
    assert owner.delete("secrets/PASSWORD").status_code == 404


SECRETS = "/w/default/secrets/"


@pytest.mark.django_db
def test_page_creates_replaces_and_deletes_and_never_shows_a_value():
    client = client_of(user("maya"))
    sent = {"name": "KEY_FILE", "value": f"{CANARY}\r\nits second line\r\n"}

    made = client.post(f"{SECRETS}create/", sent)
    row = Secret.objects.get()
    taken = client.post(f"{SECRETS}create/", sent)

    assert made.headers["Location"] == SECRETS
    assert secret_values(workspace().pk, ["KEY_FILE"]) == {
        "KEY_FILE": f"{CANARY}\nits second line\n"
    }
    assert errors(taken.content.decode()) == [
        "There is such a secret already; replace its value in the list"
    ]

    page = client.get(SECRETS)
    dialog = client.get(f"{SECRETS}{row.pk}/")
    short = client.post(f"{SECRETS}{row.pk}/", {"value": "canar"})
    client.post(f"{SECRETS}{row.pk}/", {"name": "OTHER", "value": "another value"})

    assert [cells[:2] for cells in rows(page.content.decode())] == [["KEY_FILE", "maya"]]
    assert errors(short.content.decode()) == [
        "The value is shorter than 6 characters and could not be hidden in logs; take a longer one"
    ]
    assert b"canar" not in taken.content + page.content + dialog.content + short.content
    assert secret_values(workspace().pk, ["KEY_FILE", "OTHER"]) == {"KEY_FILE": "another value"}

    client.post(f"{SECRETS}{row.pk}/delete/")
    assert not Secret.objects.exists()


@pytest.mark.django_db
def test_whoever_may_not_edit_secrets_sees_their_names_and_is_offered_nothing():
    row = set_secret(workspace(), "PASSWORD", CANARY, user=None)
    client = member(Role.DATA_ENGINEERING)

    html = client.get(SECRETS).content.decode()

    assert [cells[:2] for cells in rows(html)] == [["PASSWORD", "–"]]
    assert re.findall(f'{SECRETS}[^"]+', html) == []
    assert client.get(f"{SECRETS}{row.pk}/").status_code == 403
    for place in ("create/", f"{row.pk}/", f"{row.pk}/delete/"):
        assert client.post(SECRETS + place, {"value": "another value"}).status_code == 403
    assert secret_values(workspace().pk, ["PASSWORD"]) == {"PASSWORD": CANARY}


@pytest.mark.django_db
@pytest.mark.parametrize("many", [1, 3])
def test_number_of_secrets_adds_no_query(django_assert_num_queries, many):
    client = member()
    for n in range(many):
        set_secret(workspace(), f"S{n}", CANARY, user=user())

    with django_assert_num_queries(4):  # session, user, member; secrets with who changed them
        html = client.get(SECRETS).content.decode()

    assert len(rows(html)) == many


PRINTS = """
echo begin
echo "the password is $PASSWORD"
printf %s "$PASSWORD" | cut -c1-9 | tr -d '\\n'; sleep 0.3; printf %s "$PASSWORD" | cut -c10-
printf %s "user:$PASSWORD" | base64 -w0; echo
echo "FATAL: cannot log in with $PASSWORD" >&2
exit 3
"""


def test_a_canary_is_nowhere_but_in_the_job(start, home):
    set_secret(workspace(), "PASSWORD", CANARY, user=None)
    start()
    run = by_hand(published("a", uses={"a": job("prints", PRINTS, secrets=["PASSWORD"])}))

    def over() -> bool:
        run.refresh_from_db()
        return run.ended_at is not None

    until(over, "the run's end")

    attempt = Attempt.objects.get(node_run__run=run)
    log = log_of(run.pk, attempt.node_run_id, 1).read().data.decode()
    assert log.splitlines()[:3] == ["begin", "the password is ***", "***"]
    assert log.splitlines()[-1] == "FATAL: cannot log in with ***"
    assert attempt.error_line == "FATAL: cannot log in with ***"
    assert (attempt.log_tail, attempt.reason) == (log, "exit code 3")
    assert CANARY not in log
    seen = program().get(f"runs/{run.pk}/nodes/a/attempts/1").content
    seen += body_of(program().get(f"runs/{run.pk}/nodes/a/attempts/1/log"))
    assert CANARY.encode() not in seen
    found = subprocess.run(
        ["grep", "-rlF", CANARY, home.logs, home.database], capture_output=True, check=False
    )
    assert found.stdout == b""


def test_a_job_whose_secret_is_missing_fails_at_its_start_and_says_so(start):
    start()
    run = by_hand(published("a", uses={"a": job("prints", "echo ran", secrets=["PASSWORD"])}))

    def over() -> bool:
        run.refresh_from_db()
        return run.ended_at is not None

    until(over, "the run's end")

    attempt = Attempt.objects.get(node_run__run=run)
    assert attempt.reason == (
        "the workspace has no secret PASSWORD; set it and rerun, or take it out of the job"
    )
