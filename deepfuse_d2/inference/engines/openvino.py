"""OpenVINO: an engine for CPUs that chooses its kernels by what the processor can."""

import importlib.util
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .interface import Run
from .stored import StoredPart, read_record

__all__ = ["INT8_RECORD", "OpenVINOEngine", "as_graph", "compile_graph", "load_integer_parts"]

#: What is written down of the parts in integers that lie in a model folder.
INT8_RECORD = "int8.json"


class OpenVINOEngine:
    """Takes over a trace of the part, with all sizes open."""

    name = "openvino"

    def why_not(self, device: torch.device) -> str:
        if device.type != "cpu":
            return f"OpenVINO computes on CPUs, the model is on {device}"
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is missing: pip install 'deepfuse-d2[openvino]'"
        return ""

    def compile(
        self, part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], dtype: torch.dtype
    ) -> Run:
        return compile_graph(as_graph(part, example, dynamic), dtype)


def as_graph(part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int]):
    """A part as an ``openvino.Model``."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # what openvino.convert_model does, without its report of the use to the network
    with warnings.catch_warnings():
        # OpenVINO traces by what torch calls outdated, once for each part
        warnings.simplefilter("ignore", FutureWarning)
        traced = TorchScriptPythonDecoder(part, example_input=tuple(example))
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(traced))
    for entry, tensor in zip(model.inputs, example, strict=True):
        shape = [-1 if i in dynamic else n for i, n in enumerate(tensor.shape)]
        entry.get_node().set_partial_shape(openvino.PartialShape(shape))
    model.validate_nodes_and_infer_types()
    return model


def compile_graph(model, dtype: torch.dtype) -> Run:
    """An ``openvino.Model`` at work on this CPU; integers in it stay integers."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    # a request holds memory of its own and serves one thread at a time
    requests = threading.local()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        arrays = [x.contiguous().numpy() for x in inputs]
        found = requests.own.infer(arrays, share_inputs=True)
        return tuple(torch.from_numpy(found[output]) for output in compiled.outputs)

    return run


def load_integer_parts(folder: str | os.PathLike) -> dict[str, StoredPart]:
    """Parts of a model folder in 8-bit integers, by their paths; see inference/int8.py.

    Raises:
        ConfigError: the folder has none.
    """
    import openvino

    record = read_record(Path(folder) / INT8_RECORD)
    if record is None:
        raise ConfigError(
            f"{folder} holds no parts in 8-bit integers; deepfuse pack --int8 writes them."
        )
    core = openvino.Core()
    return {
        path: StoredPart(
            compile_graph(core.read_model(graph, weights), torch.float32), least, torch.int8
        )
        for path, ((graph, weights), least) in record.parts.items()
    }
