"""Parts of a batch, noise that does not depend on the number of ranks, and what is refused before a job begins."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext import ranks
from toolkit_ext.attacks import FGSM, MIM, PGD, TPGD, RandomFGSM, generate
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import ALONE, RankError, Ranks, friendly_errors
from toolkit_ext.trainers.distributed import DataParallelContext, check_batch
from toolkit_ext.types import Losses, no_exchange


@given(st.integers(1, 40), st.integers(1, 300))
def test_parts_are_the_batch(size: int, n: int) -> None:
    team = [Ranks(rank, size) for rank in range(size)]
    counted = [one for one in team if one.weight(n) > 0]
    covered = [index for one in counted for index in range(n)[one.part(n)]]
    assert covered == list(range(n))
    assert sum(one.weight(n) for one in team) == pytest.approx(1)
    assert all(len(range(n)[one.part(n)]) >= 1 for one in team)  # also where there are more ranks than examples
    assert all(one.weight(n) == len(range(n)[one.part(n)]) / n for one in counted)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "normal_": lambda x: torch.empty_like(x).normal_(),
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "rand_like": torch.rand_like,
    "randn_like": lambda x: torch.randn_like(x),
    "rand": lambda x: torch.rand(len(x), 2),
    "randn of a shape": lambda x: torch.randn((len(x), 1, 1, 1)),
    "one number an image": lambda x: torch.zeros(len(x)).uniform_(0, 1),
    "two in turn": lambda x: torch.rand_like(x) + torch.empty_like(x).normal_(),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "n"), [(2, 7), (3, 9), (4, 2)])
def test_noise_is_that_of_the_whole_batch(draw: str, layout: torch.memory_format, size: int, n: int) -> None:
    x = torch.zeros(n, 3, 4, 5).to(memory_format=layout)
    torch.manual_seed(0)
    whole, after = DRAWS[draw](x), torch.rand(1)
    for rank in range(size):
        team = Ranks(rank, size)
        torch.manual_seed(0)
        with team.drawing(n):
            own = DRAWS[draw](x[team.part(n)])
        assert torch.equal(own, whole[team.part(n)])
        assert torch.equal(torch.rand(1), after)  # the generator has gone on as that of one process


@pytest.mark.parametrize("attack", [FGSM(eps=0.1), RandomFGSM(eps=0.1), PGD(eps=0.1), MIM(eps=0.1), TPGD(eps=0.1)])
def test_attacks_on_parts_are_those_on_the_batch(attack: PGD) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.rand(7, 1, 4, 4, dtype=torch.float64), torch.arange(7) % 3
    torch.manual_seed(1)
    whole = generate(attack, model, x, y).inputs
    for rank in range(2):
        team = Ranks(rank, 2)
        part = team.part(7)
        torch.manual_seed(1)
        with team.drawing(7):
            own = generate(attack, model, x[part], y[part]).inputs
        torch.testing.assert_close(own, whole[part])


def test_other_draws_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(5), torch.empty(3, 2).uniform_()
    torch.manual_seed(0)
    with Ranks(1, 2).drawing(8):  # four rows here
        found = torch.rand(5), torch.empty(3, 2).uniform_()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_dropout_differs_between_ranks_and_leaves_the_common_generator() -> None:
    model, drawn, after = nn.Linear(2, 2), [], []
    for rank in range(2):
        torch.manual_seed(0)
        with DataParallelContext(Ranks(rank, 2), model, seed=3).own_draws(5):
            drawn.append(torch.rand(4))
        after.append(torch.rand(4))
    assert not torch.equal(*drawn)
    assert torch.equal(*after)


def test_sharded_losses_are_weighted_and_reported_as_they_are() -> None:
    terms = {"clean": torch.tensor(2.0), "penalty": torch.tensor(1.0)}
    team = DataParallelContext(Ranks(1, 3), nn.Linear(1, 1), sharded=True)
    team.take(torch.zeros(7, 1), torch.zeros(7))  # 2, 2 and 3 examples
    scaled = team.scaled(Losses(terms, {"penalty": 0.5}))
    assert scaled.total.item() == pytest.approx(3 * 2 / 7 * 2.5)
    assert scaled.terms == terms


def test_one_process_is_a_job_too() -> None:
    tensor = torch.ones(2)
    ALONE.sum([tensor])
    ALONE.align([tensor])
    ALONE.agree({"eps": 1})
    assert tensor.tolist() == [1, 1]
    assert ALONE.gather("a") == ["a"]
    assert ALONE.first(lambda: 3) == 3
    assert ALONE.part(5) == slice(0, 5)
    assert ALONE.weight(5) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("2 GiB"),
            "this process: out of memory on cuda:1 in training; take a smaller batch_size",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory on cuda:1"),
        (MemoryError(), "out of memory on cuda:1"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [::1]"),
            "lost another rank in training",
        ),
    ],
)
def test_a_failed_rank_says_why_in_one_line(error: Exception, said: str) -> None:
    with pytest.raises(RankError) as raised, friendly_errors("in training", "cuda:1"):
        raise error
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), friendly_errors("in training"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_batch_needs_an_example_for_each_rank() -> None:
    check_batch(Ranks(0, 8), 8)
    with pytest.raises(UserError, match="batch_size: 7 is not allowed on 8 processes; at least 8"):
        check_batch(Ranks(0, 8), 7)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("launcher")
def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"pip install 'toolkit-ext\[distributed\]'"):
        ranks.start(torch.device("cpu"))


@pytest.mark.usefixtures("launcher")
def test_every_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="process 1 of this machine has no GPU, there are 1; start at most 1"):
        ranks.start(torch.device("cuda"))
    with pytest.raises(UserError, match="cuda:0 is not allowed for several processes"):
        ranks.start(torch.device("cuda:0"))


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks.start(torch.device("cpu")) == (ALONE, torch.device("cpu"))
    assert ranks.current(torch.device("cpu")) is ALONE
    assert not ranks.silent()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ranks.restarted()


def test_a_user_update_without_share_is_refused() -> None:
    from toolkit_ext.trainers.config import LoopConfig

    team = DataParallelContext(Ranks(0, 2), nn.Linear(1, 1))
    with pytest.raises(UserError, match="update: mine is not allowed on several processes"):
        team.share(object(), LoopConfig(), "mine", no_exchange)  # type: ignore[arg-type]
