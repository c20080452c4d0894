"""The mutants of the tested modules, made by mutmut's operators, and a sample of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

REPOSITORY = Path(__file__).parents[2]
_TEXT_CALLS = {"warn", "warning", "info", "debug", "print", "tqdm"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file; ``key`` names it as long as the file does not change."""

    path: str
    function: str
    line: int
    change: str
    source: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.path}\n{self.source}".encode()).hexdigest()[:10]

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class _Mutations(MutationVisitor):  # type: ignore[misc]  # mutmut is not typed
    """mutmut's mutations, each with its line."""

    def __init__(self) -> None:
        super().__init__(mutation_operators, IgnoredCode(set(), set(), set()))
        self.lines: list[int] = []

    def _create_mutations(self, node: cst.CSTNode) -> None:
        super()._create_mutations(node)
        line = self.get_metadata(PositionProvider, node).start.line
        self.lines += [line] * (len(self.mutations) - len(self.lines))


def _below(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _below(child)


def _name(node: cst.BaseExpression) -> str:
    return node.attr.value if isinstance(node, cst.Attribute) else node.value if isinstance(node, cst.Name) else ""


def _untested(module: cst.Module) -> set[int]:
    """Nodes whose mutants say nothing about the tests: texts of errors and logs, and types given to ``cast``."""
    found: set[int] = set()
    for node in _below(module):
        if isinstance(node, cst.Raise) or (isinstance(node, cst.Call) and _name(node.func) in _TEXT_CALLS):
            found |= {id(below) for below in _below(node)}
        elif isinstance(node, cst.Call) and _name(node.func) == "cast":
            found |= {id(node), *(id(below) for below in _below(node.args[0]))}
    return found


@dataclass(frozen=True)
class Site:
    """A possible mutant; its source, which takes a quarter of a second to write, is made for those that are drawn."""

    path: str
    module: cst.Module
    mutation: Mutation
    line: int

    @property
    def function(self) -> str:
        """Name of the function that it is in."""
        function = self.mutation.contained_by_top_level_function
        return function.name.value if function else ""

    @property
    def change(self) -> str:
        """The code before and after, shortened."""
        nodes = self.mutation.original_node, self.mutation.mutated_node
        before, after = (" ".join(self.module.code_for_node(node).split())[:80] for node in nodes)
        return f"{before} -> {after}"

    def mutant(self) -> Mutant | None:
        """The mutant, or None if it is no Python."""
        nodes = self.mutation.original_node, self.mutation.mutated_node
        source = cst.ensure_type(self.module.deep_replace(*nodes), cst.Module).code
        try:
            compile(source, self.path, "exec")
        except SyntaxError:
            return None
        return Mutant(self.path, self.function, self.line, self.change, source)


def sites(path: str, root: Path = REPOSITORY) -> list[Site]:
    """Every possible mutant of the functions of a file: of what runs when a function is called, as mutmut has it."""
    visitor = _Mutations()
    module = MetadataWrapper(cst.parse_module((root / path).read_text())).visit(visitor)
    untested = _untested(module)
    return [
        Site(path, module, mutation, line)
        for mutation, line in zip(visitor.mutations, visitor.lines, strict=True)
        if isinstance(mutation.contained_by_top_level_function, cst.FunctionDef)
        and id(mutation.original_node) not in untested
    ]


def find(key: str, path: str, function: str, line: int, change: str, root: Path = REPOSITORY) -> Mutant | None:
    """The mutant with this ``key`` or, if the file has changed since, with this ``change`` nearest to ``line``.

    None if the code is gone, or if several mutants of the nearest line are alike.
    """
    if not (root / path).is_file():
        return None
    alike = [site for site in sites(path, root) if (site.function, site.change) == (function, change)]
    distance = min((abs(site.line - line) for site in alike), default=0)
    nearest = [mutant for site in alike if abs(site.line - line) == distance and (mutant := site.mutant())]
    same = [mutant for mutant in nearest if mutant.key == key]
    return (same or nearest)[0] if same or len(nearest) == 1 else None


def _drawn(group: list[Site], count: int, draw: random.Random) -> Iterator[Mutant]:
    """``count`` mutants of a group; those that are no Python are drawn again."""
    mutants = (site.mutant() for site in draw.sample(group, len(group)))
    yield from islice((mutant for mutant in mutants if mutant), count)


def sample(groups: list[list[Site]], size: int, seed: int) -> list[Mutant]:
    """``size`` mutants, each group in proportion to its number of sites, in an order of their own."""
    draw = random.Random(seed)
    total = sum(map(len, groups))
    size = min(size, total)
    shares = [size * len(group) / total for group in groups]
    counts = [int(share) for share in shares]
    by_rest = sorted(range(len(groups)), key=lambda i: counts[i] - shares[i])
    for i in by_rest[: size - sum(counts)]:
        counts[i] += 1
    found = [mutant for group, count in zip(groups, counts, strict=True) for mutant in _drawn(group, count, draw)]
    draw.shuffle(found)
    return found
