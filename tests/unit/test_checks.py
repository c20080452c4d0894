"""The checks of images, labels and epsilon."""

from __future__ import annotations

import contextlib
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit_ext.data import check_images, check_labels
from toolkit_ext.errors import UserError
from toolkit_ext.trainers.compose import AXES, options
from toolkit_ext.units import Eps, parse_eps


def test_good_images_pass() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert check_images(x) is x
    assert check_images(x.numpy()).data_ptr() == x.data_ptr()
    assert check_images(x.double()).dtype == torch.float32
    assert check_images(x.half()).dtype == torch.float32
    assert check_images(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)).dtype == torch.uint8
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    assert torch.equal(check_images(frozen), x)
    assert torch.equal(check_images(x.numpy()[:, :, :, ::-1]), x.flip(3))


def with_value(value: float) -> torch.Tensor:
    """Images of 0.5 with one other pixel."""
    x = torch.full((3, 1, 4, 4), 0.5)
    x[1, 0, 2, 2] = value
    return x


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "above": (with_value(1.5), "images: values range from 0.5 to 1.5; they must be in [0, 1]; divide pixels"),
    "below": (with_value(-0.25), "images: values range from -0.25 to 0.5; they must be in [0, 1]"),
    "nan": (with_value(float("nan")), "images: 1 of 3 images have NaN pixels"),
    "inf": (with_value(float("inf")), "images: values range from 0.5 to inf"),
    "bytes as floats": (with_value(255.0), "divide pixels of 0 to 255 by 255"),
    "three dimensions": (torch.rand(3, 4, 4), "images: shape [3, 4, 4] is not allowed; give [N, C, H, W]"),
    "channels last": (np.zeros((2, 8, 8, 3), np.float32), "images: shape [2, 8, 8, 3] looks like [N, H, W, C]"),
    "empty": (torch.rand(0, 3, 4, 4), "images: shape [0, 3, 4, 4] is empty"),
    "integers": (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "images: dtype int64 is not allowed"),
    "booleans": (torch.zeros(1, 1, 2, 2, dtype=torch.bool), "images: dtype bool is not allowed"),
    "text": ("cat.png", "images: a str is not allowed"),
    "objects": (np.array([None, 1], dtype=object), "images: a ndarray is not allowed"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(case: str) -> None:
    x, message = BAD_IMAGES[case]
    with pytest.raises(UserError) as caught:
        check_images(x)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_are_named_in_messages() -> None:
    with pytest.raises(UserError, match=r"^validation images: "):
        check_images(with_value(2), "validation images")


@settings(max_examples=50)
@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    kind=st.sampled_from([torch.uint8, torch.int32, torch.int64]),
)
def test_index_and_one_hot_labels_agree(labels: list[int], kind: torch.dtype) -> None:
    y = torch.tensor(labels)
    hot = torch.nn.functional.one_hot(y, 7)
    for given_labels in (y.to(kind), hot, hot.float(), hot.numpy().astype(np.float64), hot.bool(), labels):
        checked = check_labels(given_labels, len(y), 7)
        assert checked.dtype == torch.int64
        assert torch.equal(checked, y)


BAD_LABELS: dict[str, tuple[Any, str]] = {
    "floats": (torch.tensor([0.0, 1.0, 2.0]), "labels: dtype float32 is not allowed; give integer class indices"),
    "booleans": (torch.tensor([True, False, True]), "labels: dtype bool is not allowed"),
    "too high": (torch.tensor([0, 3, 4]), "labels: values range from 0 to 4; they must be 0 to 3"),
    "negative": (torch.tensor([0, -1, 2]), "labels: values range from -1 to 2; they must be 0 to 3"),
    "short": (torch.tensor([0, 1]), "labels: 2 labels for 3 images"),
    "empty": (torch.tensor([], dtype=torch.int64), "labels: shape [0] is empty"),
    "soft": (torch.full((3, 4), 0.25), "labels: the rows of shape [3, 4] are not one-hot"),
    "no class": (torch.zeros(3, 4), "labels: the rows of shape [3, 4] are not one-hot"),
    "classes": (torch.eye(5)[:3], "labels: one-hot rows of 5 classes; the model has 4"),
    "column": (torch.tensor([[0], [1], [2]]), "labels: shape [3, 1] is not allowed"),
    "cube": (torch.zeros(3, 2, 2, dtype=torch.int64), "labels: shape [3, 2, 2] is not allowed"),
    "text": (np.array(["a", "b", "c"]), "labels: a ndarray is not allowed"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(case: str) -> None:
    y, message = BAD_LABELS[case]
    with pytest.raises(UserError) as caught:
        check_labels(y, 3, 4)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_without_known_classes() -> None:
    assert check_labels([0, 100], 2).tolist() == [0, 100]
    with pytest.raises(UserError, match="they must be 0 or more"):
        check_labels([0, -2], 2)


@pytest.mark.parametrize(
    ("value", "norm", "expected"),
    [
        ("8/255", "Linf", 8 / 255),
        (" 8 / 255 ", "Linf", 8 / 255),
        ("0.3", "Linf", 0.3),
        (0.03, "Linf", 0.03),
        (0, "Linf", 0.0),
        (1, "Linf", 1.0),
        ("1e-2", "Linf", 0.01),
        ("128/255", "L2", 128 / 255),
        (2, "L2", 2.0),
    ],
)
def test_eps(value: str | float, norm: str, expected: float) -> None:
    assert parse_eps(value, norm) == expected


@pytest.mark.parametrize(
    ("value", "norm", "message"),
    [
        (8, "Linf", "eps: 8 is not allowed for Linf; did you mean 8/255 = 0.0314? inputs are in [0, 1]"),
        ("8", "Linf", "did you mean 8/255 = 0.0314?"),
        (300, "Linf", "eps: 300 is not allowed for Linf; inputs are in [0, 1]"),
        (-0.1, "Linf", "eps: -0.1 is not allowed; it must be a finite number, at least 0"),
        ("-8/255", "L2", "eps: -8/255 is not allowed"),
        ("nan", "Linf", "eps: nan is not allowed"),
        (float("inf"), "L2", "eps: inf is not allowed"),
        ("8/0", "Linf", "eps: '8/0' is not a number"),
        ("1/2/3", "Linf", "eps: '1/2/3' is not a number"),
        ("eight", "Linf", "eps: 'eight' is not a number; give one such as 8/255"),
        ("", "Linf", "eps: '' is not a number"),
        (True, "Linf", "eps: True is not a number"),
        (0.1, "L3", "norm: 'L3' is not known"),
    ],
)
def test_eps_errors(value: str | float, norm: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_eps(value, norm)
    assert message in str(caught.value)


def test_eps_names_its_option() -> None:
    with pytest.raises(UserError, match=r"^alpha: 2 is not allowed for Linf"):
        parse_eps(2, option="alpha")
    assert parse_eps("2", None, "alpha") == 2


def test_every_option_that_takes_a_fraction_says_so() -> None:
    """The command line hands on text for fields of type ``Eps`` alone, so none may be read as a fraction without it."""
    said, read = set(), set()
    for kind in (kind for kinds in AXES.values() for kind in kinds.values()):
        hints = get_type_hints(kind, include_extras=True)
        for name in options(kind):
            if hints[name] in (Eps, Eps | None):
                said.add((kind, name))
            with contextlib.suppress(TypeError, UserError):
                if getattr(kind(**{name: "1/8"}), name) == 0.125:
                    read.add((kind, name))
    assert said == read
    assert {name for _, name in said} >= {"eps", "alpha", "eps_min"}
