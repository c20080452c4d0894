"""What a job of two gloo ranks says when something is wrong, and its evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import evaluation, plain  # type: ignore[import-not-found]

Found = list[dict[str, Any]]


def test_an_evaluation_is_that_of_one_process_image_by_image(ranks: Found) -> None:
    alone = plain(evaluation())
    for found in ranks:
        theirs = found["evaluation"]
        assert alone["robust"].keys() == theirs["robust"].keys()
        assert all(torch.equal(alone["robust"][key], theirs["robust"][key]) for key in alone["robust"])
        assert all(torch.equal(alone[key], theirs[key]) for key in ("inputs", "indices", "predictions"))
        assert [alone[key] for key in ("attacks", "metrics", "rows")] == [
            theirs[key] for key in ("attacks", "metrics", "rows")
        ]
    assert 0 < alone["metrics"]["aa_acc"] < alone["metrics"]["clean_acc"]


def test_one_process_takes_up_the_batches_of_two(ranks: Found, folder: Path) -> None:
    saved = sorted((folder / "evaluation").glob("batch-*"))
    before = [path.stat().st_mtime_ns for path in saved]
    again = plain(evaluation(state_dir=folder / "evaluation"))
    assert torch.equal(again["inputs"], ranks[0]["evaluation"]["inputs"])
    assert [path.stat().st_mtime_ns for path in saved] == before


ERRORS = {
    "configuration": "SharedError: ranks: rank 1 has another eps (0.2 there, 0.1 on rank 0)",
    "data": "SharedError: ranks: rank 1 has another data (",
    "models": "SharedError: ranks: rank 1 has another seed (1 there, 0 on rank 0)",
    "batch": "UserError: batch_size: 1 is not allowed on 2 processes; at least 2, one for each",
    "sync": "UserError: sync_batch_norm: True is not allowed on the CPU",
    "fsdp": "UserError: update: awp is not allowed with sharding fsdp; plain",
    "attack": "UserError: attack: deep is not allowed with sharding fsdp; none, fgsm, fast, pgd",
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_on_every_rank(name: str, ranks: Found) -> None:
    for found in ranks:
        assert found["errors"][name].startswith(ERRORS[name])
        assert "\n" not in found["errors"][name]


def test_an_error_that_the_first_rank_has_too_is_printed_once(ranks: Found) -> None:
    assert [found["told"] for found in ranks] == [False, True]


def test_a_rank_out_of_memory_says_so_and_the_other_does_not_wait_for_it(ranks: Found) -> None:
    other, hungry = (found["memory"] for found in ranks)
    assert hungry.startswith("RankError: rank 1 of 2: out of memory on cpu in training; take a smaller batch_size")
    assert other.startswith("RankError: rank 0 of 2: lost another rank while gradients were exchanged;")
    assert "--resume" in other
