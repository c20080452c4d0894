"""Which tests judge the mutants of which files, the fastest first."""

from __future__ import annotations

from tests.mutation.mutants import REPOSITORY

_UPDATES = (
    "tests/unit/test_updates_rules.py",
    "tests/unit/test_updates_ball.py",
    "tests/parity/test_updates_dual_formula.py",
    "tests/unit/test_updates_dual.py",
    "tests/parity/test_updates_perturbed_formula.py",
    "tests/unit/test_updates_perturbed.py",
    "tests/unit/test_updates_batch_norm.py",
)
_OBJECTIVES = (
    "tests/parity/test_objectives.py",
    "tests/unit/test_objectives_api.py",
    "tests/parity/test_objectives_penalties.py",
)
_SCHEDULES = ("tests/unit/test_schedules_api.py", "tests/parity/test_schedules.py")
_LAYERWISE = (
    "tests/unit/test_layerwise_penalty.py",
    "tests/parity/test_layerwise_cg.py",
    "tests/parity/test_layerwise_formula.py",
    "tests/unit/test_layerwise.py",
)
_RESULTS = (
    "tests/unit/results/test_inference_certain.py",
    "tests/unit/results/test_inference.py",
    "tests/unit/results/test_results_significance.py",
    "tests/unit/results/test_compare.py",
)
_LOOP = (
    "tests/unit/trainers/test_callbacks.py",
    "tests/unit/trainers/test_fit.py",
    "tests/unit/trainers/test_meter.py",
    "tests/unit/trainers/test_averaging.py",
    "tests/unit/trainers/test_monitor.py",
    "tests/unit/trainers/test_extensions.py",
    "tests/unit/trainers/test_resume_inside.py",
)

#: Name of a group: its files or folders, and its tests.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "loop": (("trainers/loop.py", "trainers/run_state.py"), _LOOP),
    "updates": (("updates",), _UPDATES),
    "objectives": (("objectives",), _OBJECTIVES),
    "schedules": (("schedules",), _SCHEDULES),
    "layerwise": (("attacks/layerwise",), _LAYERWISE),
    "significance": (("results/tables/significance.py", "results/inference"), _RESULTS),
}


def files_of(group: str) -> list[str]:
    """Paths of the files whose functions are mutated, from the root of the repository."""
    found = []
    for name in GROUPS[group][0]:
        path = REPOSITORY / "toolkit_ext" / name
        found += [path] if path.is_file() else sorted(path.glob("*.py"))
    return [path.relative_to(REPOSITORY).as_posix() for path in found]


def group_of(path: str) -> str:
    """The group a file belongs to."""
    return next(group for group in GROUPS if path in files_of(group))
