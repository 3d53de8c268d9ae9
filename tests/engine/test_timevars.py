from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.engine.timevars import render, unknown

VALUES = {"ds": "2026-03-01", "name": "${ds} $1 \\1", "empty": ""}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("dt=${ds}", "dt=2026-03-01", id="a value"),
        pytest.param("${ds}${ds}", "2026-03-012026-03-01", id="side by side"),
        pytest.param("<${empty}>", "<>", id="an empty value"),
        pytest.param("${name}", "${ds} $1 \\1", id="a value is not rendered again"),
        pytest.param("$${ds}", "${ds}", id="an escape"),
        pytest.param("$$${ds}", "$${ds}", id="the escape takes the nearest dollar"),
        pytest.param("${other}", "${other}", id="an unknown name stays"),
        pytest.param("${hiveconf:ds} ${spark.ds}", "${hiveconf:ds} ${spark.ds}", id="Spark's own"),
        pytest.param("${ ds } ${ds ${ds", "${ ds } ${ds ${ds", id="nearly a variable"),
        pytest.param("$ds ${1} ${}", "$ds ${1} ${}", id="what a shell would take"),
        pytest.param("{{7*7}} #{ds} ${T(ds)}", "{{7*7}} #{ds} ${T(ds)}", id="other languages"),
    ],
)
def test_render(text, result):
    assert render(text, VALUES) == result


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("${ds} ${empty}", [], id="all known"),
        pytest.param("${b} ${ds} ${a} ${b}", ["b", "a"], id="each once, in order"),
        pytest.param("${a-b} ${1}", ["a-b", "1"], id="what no variable can be called"),
        pytest.param("$${a} ${name}", [], id="an escape, and a value is not looked at"),
        pytest.param("${hiveconf:a} ${spark.a}", [], id="Spark's own"),
        pytest.param("${ a } ${} ${a", [], id="what Spark leaves alone too"),
    ],
)
def test_unknown(text, names):
    assert unknown(text, VALUES) == names


@given(st.text())
def test_text_without_a_dollar_is_never_changed(text):
    plain = text.replace("$", "")

    assert render(plain, VALUES) == plain


@given(st.text(), st.text(alphabet="${}ds\\", max_size=20), st.text())
def test_any_value_arrives_as_it_is(before, value, after):
    before, after = before.replace("$", ""), after.replace("$", "")

    assert render(before + "${x}" + after, {"x": value}) == before + value + after
