"""Which mutants are made and drawn; needs the extra ``mutation``."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mutmut")

from tests.mutation.mutants import REPOSITORY, Site, find, sample, sites
from tests.mutation.summary import summary

SOURCE = '''
"""No mutant of this text."""

def clipped(x: float, low: float = 0) -> float:
    """Nor of this."""
    if x < low:
        raise ValueError(f"{x} is below " + str(low))
    logger.warning("odd: %s", x)
    return cast("float", x) * 2
'''


@pytest.fixture
def found(tmp_path: Path) -> list[Site]:
    (tmp_path / "module.py").write_text(SOURCE)
    return sites("module.py", tmp_path)


def test_texts_and_types_have_no_mutants(found: list[Site]) -> None:
    mutants = [mutant for site in found if (mutant := site.mutant())]
    assert sorted(mutant.change for mutant in mutants) == [
        "0 -> 1",
        "2 -> 3",
        "< low -> <= low",
        'cast("float", x) * 2 -> cast("float", x) / 2',
    ]
    assert {(mutant.function, mutant.module) for mutant in mutants} == {("clipped", "module")}
    for mutant in mutants:
        before, after = mutant.change.split(" -> ")
        assert mutant.source != SOURCE
        assert mutant.source.replace(after, before, 1) == SOURCE


def test_a_sample_is_in_proportion_and_its_seed_fixes_it(found: list[Site]) -> None:
    groups = [found * 6, found * 2]
    drawn = sample(groups, 16, seed=3)
    assert [mutant.key for mutant in drawn] == [mutant.key for mutant in sample(groups, 16, seed=3)]
    assert [mutant.key for mutant in drawn] != [mutant.key for mutant in sample(groups, 16, seed=4)]
    assert len(sample(groups, 1000, seed=0)) == 32


def test_a_mutant_is_found_again_in_changed_code(found: list[Site], tmp_path: Path) -> None:
    mutants = {mutant.change: mutant for site in found if (mutant := site.mutant())}
    one = mutants["2 -> 3"]
    where = ("module.py", one.function, one.line, one.change, tmp_path)
    assert find(one.key, *where) == one
    file = tmp_path / "module.py"
    file.write_text("import math\n" + SOURCE)
    again = find(one.key, *where)
    assert again is not None
    assert (again.key == one.key, again.line, again.source) == (False, one.line + 1, "import math\n" + one.source)
    file.write_text(SOURCE.replace("* 2", "* 2 * 2"))
    assert find(one.key, *where) is None  # which of the two?
    file.write_text(SOURCE.replace("* 2", ""))
    assert find(one.key, *where) is None
    file.unlink()
    assert find(one.key, *where) is None


def test_the_documentation_has_the_counts_of_the_results() -> None:
    results = Path(__file__).parent / "results.csv"
    assert (
        f"\n\n{summary(results)}\n\nThe {results.read_text().count(',survived,')} survivors:\n"
        in (REPOSITORY / "docs" / "testing.md").read_text()
    )
