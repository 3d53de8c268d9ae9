"""Variables in the texts of a job: `${name}`.

A closed grammar and nothing else: no expression is evaluated, no template engine runs, so
`{{7*7}}` and `${T(java.lang.Runtime)}` stay what they are, text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What a variable may be called. Also a name that every shell takes for a variable.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PLACE = re.compile(r"\$\$\{|\$\{(" + NAME.pattern + r")\}")
#: A place as Spark finds it, but for those that are Spark's own.
_PLAIN_PLACE = re.compile(r"\$\$\{|\$\{([^\s.:}]+)\}")


def render(text: str, values: Mapping[str, str]) -> str:
    """Put the values of variables into a text, once: a value is not rendered again.

    `$${` is an escape and gives `${`. A name that `values` lacks stays as it is written, and
    so does one with a dot or a colon (`${hiveconf:x}`, `${spark.app.name}`): those are
    Spark's.
    """

    def value(place: re.Match[str]) -> str:
        name = place.group(1)
        if name is None:
            return "${"
        return values.get(name, place.group(0))

    return _PLACE.sub(value, text)


def unknown(text: str, values: Mapping[str, str]) -> list[str]:
    """The names in a text that `render` would leave as they are, in order, each once.

    Without those with a dot or a colon, which are Spark's. Where Spark reads the text next,
    each of the others would become an empty string, without a word.
    """
    names = (place.group(1) for place in _PLAIN_PLACE.finditer(text))
    return list(dict.fromkeys(name for name in names if name and name not in values))
