"""What cannot be evaluated is refused in one line, before any attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Protocol, evaluate

PROTOCOL = Protocol("t", "Linf", 0.1)


class Net(nn.Module):
    """A linear classifier whose answer ``change`` spoils."""

    def __init__(self, change: Any = None, classes: int = 3) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(16, classes), change

    def forward(self, x: Tensor) -> Any:
        logits = self.linear(x.flatten(1))
        return self.change(logits) if self.change else logits


def images(**pixels: float) -> Tensor:
    x = torch.full((6, 1, 4, 4), 0.5)
    for pixel in pixels.values():
        x[2, 0, 1, 1] = pixel
    return x


def labels(*values: int) -> Tensor:
    return torch.tensor(values or (0, 1, 2, 0, 1, 2))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (images(a=1.2), labels(), {}, "images: values range from .* to 1.2; they must be in"),
        (images(a=-0.1), labels(), {}, "images: values range from -0.1"),
        (images(a=float("nan")), labels(), {}, "images: 1 of 6 images have NaN pixels"),
        (images()[:0], labels()[:0], {}, "images: .* is empty"),
        (images()[0], labels(), {}, "images: shape .* is not allowed"),
        (images(), labels(0, 1, 2, 3, 0, 1), {}, "labels: values range from 0 to 3; they must be 0 to 2"),
        (images(), labels(0, 1, 2, -1, 0, 1), {}, "labels: values range from -1"),
        (images(), labels().float(), {}, "labels: dtype float32 is not allowed"),
        (images(), labels()[:5], {}, "labels: 5 labels for 6 images"),
        (images(), labels(), {"num_classes": 10}, "model: has 3 classes, the data has 10"),
        (images(), labels(), {"seed": -1}, "seed: -1 is not allowed"),
        (images(), labels(), {"batch_size": 0}, "batch_size: 0 is not allowed"),
        (images(), labels(), {"batch_size": True}, "batch_size: True is not allowed"),
        (images(), labels(), {"seed": True}, "seed: True is not allowed"),
        (images(), labels(), {"seed": 2**32}, f"seed: {2**32} is not allowed; it must be an integer at least 0 and at"),
        (images(), labels(), {"device": "gpu9"}, "device: 'gpu9' is not known"),
        (images(), labels(), {"device": "meta"}, "device: meta is not the model's, which is on cpu"),
        (images(), labels(), {"protocol": "linf_8"}, "protocol: 'linf_8' is not known"),
        (torch.rand(6, 3, 4, 4), labels(), {}, r"model: cannot take images of shape \[3, 4, 4\]"),
    ],
)
def test_input(x: Tensor, y: Tensor, options: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"protocol": PROTOCOL, "progress": False}
    with pytest.raises(UserError, match=message) as error:
        evaluate(Net(), x, y, **(defaults | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["n_iter", "n_queries"])
@pytest.mark.parametrize("value", [0, 2.5, True, "5"])
def test_the_effort_of_autoattack_is_a_count(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{option}: {value!r} is not allowed; it must be an integer at least 1$"):
        Budget(**{option: value})


def test_numbers_of_numpy_are_kept_as_pythons() -> None:
    """So that a stored evaluation and its record, which are JSON, can hold them."""
    five: Any = np.int64(5)
    options: dict[str, Any] = {"seed": np.int64(3), "batch_size": np.int64(4), "budget": Budget(five, 10)}
    found = evaluate(Net(), images(), labels(), PROTOCOL, progress=False, **options)
    kept = [found.settings["seed"], found.settings["batch_size"], found.settings["budget"]["n_iter"]]
    assert kept == [3, 4, 5]
    assert {type(number) for number in kept} == {int}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_cuda() -> None:
    with pytest.raises(UserError, match="device: cuda is not available on this machine"):
        evaluate(Net(), images(), labels(), PROTOCOL, device="cuda", progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: ("logits", logits), "model: returns tuple for images of shape"),
        (lambda logits: logits[:, 0], r"model: returns shape \[1\] for images"),
        (lambda logits: logits[:, :1], r"model: returns shape \[1, 1\] for images"),
        (lambda logits: logits.detach(), "model: its logits have no gradient"),
        (lambda logits: logits / 0, "model: gives NaN or infinite logits on clean images"),
        (lambda logits: logits.softmax(dim=1), "model: returns probabilities"),
    ],
)
def test_model(change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        evaluate(Net(change), images(), labels(), PROTOCOL, progress=False)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_float32() -> None:
    with pytest.raises(UserError, match=r"model: weight linear.weight is bfloat16; .* model.float\(\)"):
        evaluate(Net().bfloat16(), images(), labels(), PROTOCOL, progress=False)


def test_no_module() -> None:
    with pytest.raises(UserError, match="model: a str is not allowed; give a module, a function"):
        evaluate("model.pt", images(), labels(), PROTOCOL)  # type: ignore[arg-type]


def test_place_for_the_examples_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "examples.safetensors"
    with pytest.raises(UserError, match="cannot be written"):
        evaluate(Net(), images(), labels(), PROTOCOL, save_examples=place, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        evaluate(Net(), images(a=2), labels(), PROTOCOL, state_dir=tmp_path / "state", progress=False)
    assert list(tmp_path.iterdir()) == []
