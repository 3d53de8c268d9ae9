"""A graph as a picture, left to right: where its boxes stand and how its lines run.

Pure: names and edges in, numbers out. Layers by longest path; long edges are led through
every layer they cross; order within a layer by the mean place of the neighbours; then each
box goes as near to the middle of its neighbours as its own neighbours in the layer allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import fmean

#: A node or, in a layer that an edge only passes, that edge and the layer's number.
Item = str | tuple[str, str, int]


@dataclass(frozen=True)
class Size:
    """A box and the room around it."""

    width: int
    height: int
    across: int  # between layers
    between: int  # between boxes of one layer


COMPACT = Size(width=124, height=30, across=16, between=12)
CARD = Size(width=178, height=50, across=34, between=22)
#: Room that a passing line takes in a layer.
LANE = 10
#: Boxes without any edge stand in columns of this many.
COLUMN = 10
MARGIN = 8
#: A larger graph is not drawn: nobody could read it, and it would take long to lay out.
MAX_NODES = 400
MAX_EDGES = 2_000
#: Lanes in all layers together.
MAX_LANES = 5_000


@dataclass(frozen=True)
class Box:
    key: str
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    upstream: str
    downstream: str
    path: str  # an SVG path


@dataclass(frozen=True)
class Drawing:
    size: Size
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: float
    height: float


def draw(
    keys: Sequence[str], edges: Iterable[tuple[str, str]], size: Size = COMPACT
) -> Drawing | None:
    """The drawing of these nodes and edges; the same input gives the same drawing.

    None: it is too large to be drawn, and a table has to do.

    A draft may hold faults that publishing would refuse: an edge to nowhere is left out, a
    circle is cut at its first node as given and the cutting edge drawn backwards.
    """
    known = set(keys)
    wanted = sorted({(a, b) for a, b in edges if a in known and b in known and a != b})
    if len(known) > MAX_NODES or len(wanted) > MAX_EDGES:
        return None
    return _drawn(tuple(keys), tuple(wanted), size)


# A page of a live run asks every few seconds for the drawing that it had.
@lru_cache(maxsize=64)
def _drawn(
    keys: tuple[str, ...], wanted: tuple[tuple[str, str], ...], size: Size
) -> Drawing | None:
    layer = _layers(keys, wanted)
    forward = [(a, b) for a, b in wanted if layer[a] < layer[b]]
    if sum(layer[b] - layer[a] - 1 for a, b in forward) > MAX_LANES:
        return None
    layers, neighbours = _with_lanes(keys, forward, layer)
    _order(layers, neighbours)
    middle = _middles(layers, neighbours, size)

    def x_of(number: int) -> float:
        return MARGIN + number * (size.width + size.across)

    lines = []
    for a, b in wanted:
        points = [(x_of(layer[a]) + size.width, middle[a])]
        for number in range(layer[a] + 1, layer[b]):
            y = middle[a, b, number]
            points += [(x_of(number), y), (x_of(number) + size.width, y)]
        points.append((x_of(layer[b]), middle[b]))
        lines.append(Line(a, b, _path(points)))
    boxes = tuple(Box(k, x_of(layer[k]), round(middle[k] - size.height / 2, 1)) for k in keys)
    return Drawing(
        size,
        boxes,
        tuple(lines),
        width=max((box.x for box in boxes), default=0) + size.width + MARGIN,
        height=max((box.y for box in boxes), default=0) + size.height + MARGIN,
    )


def _layers(keys: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from a start; boxes without edges fill columns from the left."""
    below: dict[str, list[str]] = {key: [] for key in keys}
    left = dict.fromkeys(keys, 0)
    for a, b in edges:
        below[a].append(b)
        left[b] += 1
    joined = {end for edge in edges for end in edge}
    layer = {key: n // COLUMN for n, key in enumerate(k for k in keys if k not in joined)}
    waiting = [key for key in keys if key in joined]
    ready = [key for key in waiting if not left[key]]
    placed: dict[str, int] = dict.fromkeys(waiting, 0)
    done: set[str] = set()
    while len(done) < len(placed):
        if not ready:  # a circle: cut it at the first node that is left
            ready = [next(key for key in waiting if key not in done)]
        key = ready.pop()
        done.add(key)
        for b in below[key]:
            left[b] -= 1
            if b not in done:
                placed[b] = max(placed[b], placed[key] + 1)
                if not left[b]:
                    ready.append(b)
    return layer | placed


def _with_lanes(
    keys: Sequence[str], edges: Sequence[tuple[str, str]], layer: Mapping[str, int]
) -> tuple[list[list[Item]], dict[Item, tuple[list[Item], list[Item]]]]:
    """Layers with a lane wherever an edge passes, and each item's (left, right) neighbours."""
    layers: list[list[Item]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    neighbours: dict[Item, tuple[list[Item], list[Item]]] = {}
    for key in keys:
        layers[layer[key]].append(key)
        neighbours[key] = ([], [])
    for a, b in edges:
        chain: list[Item] = [a]
        for number in range(layer[a] + 1, layer[b]):
            lane = (a, b, number)
            layers[number].append(lane)
            neighbours[lane] = ([], [])
            chain.append(lane)
        chain.append(b)
        for one, next_one in pairwise(chain):
            neighbours[one][1].append(next_one)
            neighbours[next_one][0].append(one)
    return layers, neighbours


def _order(
    layers: list[list[Item]], neighbours: Mapping[Item, tuple[list[Item], list[Item]]]
) -> None:
    """Sort each layer by the mean place of its neighbours, to and fro, to save crossings."""
    place = {item: n for row in layers for n, item in enumerate(row)}
    for sweep in range(8):
        side = sweep % 2  # 0: look left, going right; 1: the other way
        for row in layers if side == 0 else reversed(layers):
            # Lanes see to it that neighbours stand in the layer beside this one.
            row.sort(
                key=lambda item: (
                    fmean(place[other] for other in neighbours[item][side])
                    if neighbours[item][side]
                    else place[item]
                )
            )
            place.update((item, n) for n, item in enumerate(row))


def _middles(
    layers: list[list[Item]],
    neighbours: Mapping[Item, tuple[list[Item], list[Item]]],
    size: Size,
) -> dict[Item, float]:
    """The height of each item's middle: near its neighbours', never nearer than allowed."""

    def room(item: Item) -> float:
        return size.height + size.between if isinstance(item, str) else LANE

    def fit(row: list[Item], wish: list[float]) -> None:
        """Least squares under the order of the row: neighbours that collide move as one."""
        blocks: list[tuple[float, int]] = []  # mean wish less offset, how many
        offset = [0.0]
        for one, two in pairwise(row):
            offset.append(offset[-1] + (room(one) + room(two)) / 2)
        for n in range(len(row)):
            mean, count = wish[n] - offset[n], 1
            while blocks and blocks[-1][0] >= mean:
                before, many = blocks.pop()
                mean = (before * many + mean * count) / (many + count)
                count += many
            blocks.append((mean, count))
        n = 0
        for mean, count in blocks:
            for _ in range(count):
                middle[row[n]] = mean + offset[n]
                n += 1

    middle: dict[Item, float] = {}
    for row in layers:
        fit(row, [0.0] * len(row))
    for sweep in range(12):
        for row in layers if sweep % 2 == 0 else reversed(layers):
            wish = []
            for item in row:
                left, right = neighbours[item]
                near = (left, right)[sweep % 2] or left or right
                if sweep >= 10:
                    near = left + right
                wish.append(fmean(middle[other] for other in near) if near else middle[item])
            fit(row, wish)
    top = min((y - room(item) / 2 for item, y in middle.items()), default=0.0)
    return {item: round(y - top + MARGIN - size.between / 2, 1) for item, y in middle.items()}


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Smooth between layers, straight along lanes."""
    (x, y), *rest = points
    parts = [f"M{x:g} {y:g}"]
    for n, (to_x, to_y) in enumerate(rest):
        if n % 2 or y == to_y:
            parts.append(f"L{to_x:g} {to_y:g}")
        else:
            half = (x + to_x) / 2
            parts.append(f"C{half:g} {y:g} {half:g} {to_y:g} {to_x:g} {to_y:g}")
        x, y = to_x, to_y
    return "".join(parts)
