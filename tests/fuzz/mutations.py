"""Changes to files: of bytes, of JSON, of tables, and of the objects that torch saves."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

Mutator = Callable[[random.Random, bytes], bytes]

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**30, -(10**30), 2**63, 0.5, -0.5, 1e300, float("nan"), float("inf"), "", "x",
    "../x", "a\nb", "\ud800", "=1+1", "x" * 100_000, [], [1], [[1]], [None] * 3, ["a"] * 3, {}, {"a": 1},
    {"": {"": {}}}, [{}], list(range(3000)),
)  # fmt: skip


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    """One bit of one byte."""
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """Up to 16 bytes in a row, by zeros, by ones or at random."""
    position, count = rng.randrange(len(data)), rng.randint(1, 16)
    new = rng.choice([b"\0" * count, b"\xff" * count, rng.randbytes(count)])
    return data[:position] + new + data[position + count :]


def cut_short(rng: random.Random, data: bytes) -> bytes:
    """The first bytes alone, sometimes none."""
    return data[: rng.choice([0, 1, rng.randrange(len(data)), rng.randrange(len(data)), len(data) - 1])]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    """All but some bytes in the middle."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def put_in(rng: random.Random, data: bytes) -> bytes:
    """Some bytes more, or the file twice."""
    if rng.random() < 0.2:
        return data + data
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[start:]


BYTES: tuple[Mutator, ...] = (flip_bit, flip_bit, overwrite, cut_short, cut_out, put_in)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a tree of dictionaries, lists and tuples, the root included."""
    yield path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in children:
        yield from places(value, (*path, key))


def changed(tree: Any, path: tuple[Any, ...], new: Callable[[Any], Any]) -> Any:
    """A copy of ``tree`` with ``new(old)`` at ``path``; for ``...`` the entry is gone."""
    if not path:
        return new(tree)
    copied = list(tree) if isinstance(tree, tuple) else copy.copy(tree)
    inner = changed(copied[path[0]], path[1:], new)
    if inner is ... and isinstance(copied, dict):
        del copied[path[0]]
    else:
        copied[path[0]] = None if inner is ... else inner
    return tuple(copied) if isinstance(tree, tuple) else copied


def _swapped(old: Any, junk: Any, more: dict[str, Any]) -> Any:
    return {**old, **more} if more and isinstance(old, dict) else junk


def swap_json(rng: random.Random, data: bytes) -> bytes:
    """Other values, of other types, in one to three places; keys taken away, added and renamed."""
    tree = json.loads(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        path = rng.choice(list(places(tree)))
        junk, more = rng.choice([..., *JUNK]), {"": 1, "x": rng.choice(JUNK)} if rng.random() < 0.15 else {}
        tree = changed(tree, path, partial(_swapped, junk=junk, more=more))
        if tree is ...:
            tree = None
    return json.dumps(tree).encode()


def odd_json(rng: random.Random, data: bytes) -> bytes:
    """Text that JSON readers trip over: nesting, long numbers, double keys, constants, other encodings."""
    text = data.decode()
    brace = text.index("{") + 1
    value = rng.choice(
        ["[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900, "9" * 10_000, "1e999", "-Infinity", "NaN"]
    )
    double = f'"{rng.choice(["x", "schema", "architecture", "name", "fingerprint", "epochs"])}": {value},'
    return rng.choice(
        [
            (text[:brace] + double + text[brace:]).encode(),
            value.encode(),
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + data,
            text.replace('": ', '": ' + value + " ", 1).encode(),
            text.replace('"', "'").encode(),
            text.replace("0", value[:5], 1).encode(),
        ]
    )


def swap_csv(rng: random.Random, data: bytes) -> bytes:
    """Other cells, columns and rows in a table."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    cells = [
        "",
        "nan",
        "inf",
        "-1",
        "1e400",
        "9" * 400,
        "x",
        '"',
        "=1+1",
        "\0",
        "1;2",
        "é",
        "[red]",
        "True",
        "x" * 9000,
    ]
    for _ in range(rng.choice([1, 1, 3])):
        how, row = rng.randrange(5), rng.choice(rows)
        if how == 0:
            row[rng.randrange(len(row))] = rng.choice(cells)
        elif how == 1:
            row.pop(rng.randrange(len(row)))
            row.extend([""] * (not row))
        elif how == 2:
            row.append(rng.choice(cells))
        elif how == 3:
            rows.insert(rng.randrange(len(rows) + 1), list(rng.choice(rows)))
        elif len(rows) > 1:
            rows.remove(row)
    return "\n".join(",".join(row) for row in rows).encode()


def swap_objects(rng: random.Random, data: bytes) -> bytes:
    """Other values among those that ``torch.save`` wrote: another type, shape or dtype, or none."""
    tree = torch.load(io.BytesIO(data), weights_only=True)
    path = rng.choice(list(places(tree)))

    def new(old: Any) -> Any:
        if isinstance(old, Tensor) and rng.random() < 0.6:
            shapes = [old.flatten(), old.reshape(-1)[:1], old.to(torch.int64), torch.zeros(0), old[None]]
            return rng.choice(shapes).clone()
        return rng.choice([..., *JUNK[:-1]])

    tree = changed(tree, path, new)
    buffer = io.BytesIO()
    torch.save(None if tree is ... else tree, buffer)
    return buffer.getvalue()


JSON: tuple[Mutator, ...] = (swap_json, swap_json, swap_json, odd_json, flip_bit, overwrite, cut_short)
CSV: tuple[Mutator, ...] = (swap_csv, swap_csv, swap_csv, *BYTES)
OBJECTS: tuple[Mutator, ...] = (swap_objects, swap_objects, *BYTES)
