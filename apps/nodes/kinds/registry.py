"""All kinds by name: ours, and those that installed packages bring.

A package brings one by an entry point of the group `runyard.kinds` that leads to an instance
of `Kind`: `notebook = "acme_runyard.notebook:KIND"`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from apps.nodes.kinds import pyspark, python, shell, spark_jar, spark_submit, sql
from apps.nodes.kinds.base import Kind

GROUP = "runyard.kinds"
BUILT_IN: tuple[Kind, ...] = (
    shell.KIND,
    python.KIND,
    sql.KIND,
    pyspark.KIND,
    spark_jar.KIND,
    spark_submit.KIND,
)

log = logging.getLogger(__name__)


class UnknownKind(LookupError):
    """No kind has this name. The message names those that exist."""


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind, ours first, in the order in which people choose among them."""
    found = {each.name: each for each in BUILT_IN}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            each = point.load()
        except Exception:  # foreign code; the others must go on working
            log.exception("kind %s (%s) cannot be loaded; it is left out", point.name, point.value)
            continue
        if not isinstance(each, Kind) or each.name in found:
            log.error("kind %s (%s) is no Kind or has a taken name", point.name, point.value)
            continue
        found[each.name] = each
    return MappingProxyType(found)


def kind(name: str) -> Kind:
    """The kind of this name. Raises UnknownKind."""
    try:
        return kinds()[name]
    except KeyError:
        raise UnknownKind(f"no kind {name!r}; there are {', '.join(kinds())}") from None
