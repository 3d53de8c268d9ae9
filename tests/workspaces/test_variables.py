"""Variables of a workspace: set, used by each other, and by whom."""

from __future__ import annotations

import pytest

from apps.core.errors import Conflict, Invalid, NotFound
from apps.engine.roles import Role
from apps.workspaces.models import Variable
from apps.workspaces.variables import delete_variable, set_variable, variables_of
from tests.api import program
from tests.factories import job, published, workspace
from tests.html import errors
from tests.people import client_of, member, user

pytestmark = pytest.mark.django_db


def test_variables_may_use_each_other_the_runs_own_and_time():
    set_variable(workspace(), "region", "eu", user=None)
    set_variable(workspace(), "path", "${RUNYARD_DATA}/${region}/$[yyyy]/${ds}", user=None)
    set_variable(workspace(), "region", "", user=None)

    assert variables_of(workspace().pk) == {
        "path": "${RUNYARD_DATA}/${region}/$[yyyy]/${ds}",
        "region": "",
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("1st", "", "'1st' is no name of a variable"),
        ("x" * 65, "", "'xxx"),
        ("ds", "", "ds is set by Runyard; choose another name"),
        ("RUNYARD_X", "", "RUNYARD_X is set by Runyard"),
        ("HOME", "", "HOME is set by Runyard"),
        ("a", "\0", "the value holds a NUL character"),
        ("a", "x" * 100_001, "the value has over 100,000 bytes"),
        ("a", "${nope}", "unknown variable ${nope}"),
        ("a", "$[yyy]", "$[yyy] is no time"),
        ("a", "${a}", "its value comes back to itself: a → a"),
    ],
)
def test_what_is_no_variable_is_refused(name, value, message):
    with pytest.raises(Invalid) as refused:
        set_variable(workspace(), name, value, user=None)

    assert str(refused.value).startswith(message)
    assert Variable.objects.count() == 0


def test_circle_is_refused_whoever_closes_it():
    set_variable(workspace(), "b", "", user=None)
    set_variable(workspace(), "a", "${b}", user=None)

    with pytest.raises(Invalid, match="comes back to itself"):
        set_variable(workspace(), "b", "${a}", user=None)


def test_variable_that_published_jobs_and_workflows_use_is_not_deleted():
    set_variable(workspace(), "region", "eu", user=None)
    published("a", "b", uses={"a": job("load", parameters={"path": "/${region}"})}, content="true")
    published("own", name="other", uses={"own": job("load")}, variables={"region": "us"})

    with pytest.raises(Conflict) as refused:
        delete_variable(workspace(), "region")

    assert str(refused.value) == (
        "variable region is used by job 'load', node 'a' of workflow 'flow'; "
        "take it out there first"
    )
    assert variables_of(workspace().pk) == {"region": "eu"}


def test_variable_that_another_uses_is_not_deleted():
    set_variable(workspace(), "region", "eu", user=None)
    set_variable(workspace(), "path", "/${region}", user=None)

    with pytest.raises(Conflict) as refused:
        delete_variable(workspace(), "region")
    assert str(refused.value) == "variable region is used by path; take it out there first"
    with pytest.raises(NotFound):
        delete_variable(workspace("other"), "region")
    delete_variable(workspace(), "path")
    delete_variable(workspace(), "region")

    assert variables_of(workspace().pk) == {}


def test_rest_sets_lists_and_deletes_them():
    caller = program()

    assert caller.put("variables/region", {"value": "eu"}).json()["value"] == "eu"
    assert caller.put("variables/region", {"value": "${nope}"}).status_code == 422
    items = caller.get("variables").json()["items"]
    assert [(each["name"], each["value"]) for each in items] == [("region", "eu")]
    assert caller.delete("variables/region").status_code == 204
    assert caller.delete("variables/region").status_code == 404


def test_page_makes_changes_and_deletes_them_for_those_who_may():
    engineer = client_of(user("maya", Role.DATA_ENGINEERING))
    scientist = member(Role.DATA_SCIENCE)
    here = "/w/default/variables/"

    assert scientist.post(f"{here}create/", {"name": "a", "value": "1"}).status_code == 403
    engineer.post(f"{here}create/", {"name": "region", "value": "eu <b>"})
    row = Variable.objects.get()
    again = engineer.post(f"{here}create/", {"name": "region", "value": "us"})
    engineer.post(f"{here}{row.pk}/", {"value": "asia"})
    page = scientist.get(here).content.decode()
    engineer.post(f"{here}{row.pk}/delete/")

    assert errors(again.content.decode()) == [
        "There is such a variable already; change its value in the list"
    ]
    assert (row.value, row.changed_by.username) == ("eu <b>", "maya")
    assert '<code class="oc-value">asia</code>' in page
    assert "Create variable" not in page
    assert Variable.objects.count() == 0


def test_page_of_variables_costs_the_same_for_one_and_for_many(django_assert_num_queries):
    client = member()
    client.get("/w/default/variables/")
    for count in (1, 5):
        for n in range(count):
            set_variable(workspace(), f"v{n}", "", user=user("maya"))
        with django_assert_num_queries(4):
            client.get("/w/default/variables/")
