"""Export a classifier of images in [0, 1] with a dynamic batch, and compare what was written with the original."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.errors import RunError, UserError, check_choice, one_line, quiet
from toolkit_ext.io import atomic_write

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "torch-export": ".pt2"}
CLOSE = 1e-3  # of a logit, relative to the largest; other kernels round differently

Runner = Callable[[Tensor], Tensor]


def export_model(model: nn.Module, images: Tensor, path: Path, to: str) -> str:
    """Write ``model`` to ``path`` and compare its logits with the original's; returns what was compared, in words.

    Args:
        model: A classifier in evaluation mode, on the CPU.
        images: At least two images ``[N, C, H, W]`` in [0, 1], on which the two are compared, all at once and one.
        path: The file to write.
        to: ``onnx`` (needs ``onnx`` and ``onnxscript``), ``torchscript`` or ``torch-export``.

    Raises:
        UserError: an unknown format, or packages that are not installed.
        RunError: the model cannot be exported, or what was written gives other logits; no file is left.
    """
    check_choice("to", to, FORMATS)
    _check_packages(to)
    with torch.no_grad():
        expected = torch.cat([model(images), model(images[:1])])
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"model{FORMATS[to]}"
        try:
            with quiet():
                _WRITERS[to](model, images, file)
        except Exception as error:  # exporters raise any exception
            raise RunError(f"export: this model cannot be written as {to} ({one_line(error, 300)})") from error
        run = _READERS[to](file)
        told = "not compared: onnxruntime is not installed" if run is None else _compare(run, images, expected, to)
        atomic_write(path, file.read_bytes())
    return told


def _check_packages(to: str) -> None:
    if to == "onnx" and (missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise UserError(f"to: onnx needs {' and '.join(missing)}; install toolkit-ext[onnx]")


def _compare(run: Runner, images: Tensor, wanted: Tensor, to: str) -> str:
    with quiet(), torch.no_grad():
        found = torch.cat([run(images), run(images[:1])])
    scale = float(wanted.abs().max())
    change = float((found - wanted).abs().max()) / max(scale, torch.finfo(wanted.dtype).tiny)
    if not change <= CLOSE:
        raise RunError(f"export: the logits of the {to} file differ by {change:.2g} of the largest; no file is written")
    same = int((found.argmax(dim=1) == wanted.argmax(dim=1)).sum())
    return f"logits differ by at most {change:.1g} of the largest; {same} of {len(wanted)} images keep their class"


def _write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    names: Any = {"input_names": ["x"], "output_names": ["logits"], "verbose": False}
    program = torch.onnx.export(_Named(model).eval(), (images,), dynamo=True, dynamic_shapes=shapes, **names)
    assert program is not None
    program.save(str(path), external_data=False)


def _write_script(model: nn.Module, images: Tensor, path: Path) -> None:
    traced: Any = torch.jit.trace(model, images, check_trace=False)  # type: ignore[no-untyped-call]
    traced.save(str(path))


def _write_export(model: nn.Module, images: Tensor, path: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(_Named(model).eval(), (images,), dynamic_shapes=shapes), path)


class _Named(nn.Module):
    """``model`` with an input called ``x``, which exporters name dynamic sizes by."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def _read_onnx(path: Path) -> Runner | None:
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def _read_script(path: Path) -> Runner:
    with quiet():
        program: Runner = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    return program


def _read_export(path: Path) -> Runner:
    return torch.export.load(path).module()


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
    "onnx": _write_onnx,
    "torchscript": _write_script,
    "torch-export": _write_export,
}
_READERS: dict[str, Callable[[Path], Runner | None]] = {
    "onnx": _read_onnx,
    "torchscript": _read_script,
    "torch-export": _read_export,
}
