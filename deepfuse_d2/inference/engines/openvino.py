"""OpenVINO: an engine for CPUs that chooses its kernels by what the processor can."""

import importlib.util
import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .interface import Run

__all__ = ["OpenVINOEngine"]


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
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        # what openvino.convert_model does, without its report of the use to the network
        traced = TorchScriptPythonDecoder(part, example_input=tuple(example))
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(traced))
        for entry, tensor in zip(model.inputs, example, strict=True):
            shape = [-1 if i in dynamic else n for i, n in enumerate(tensor.shape)]
            entry.get_node().set_partial_shape(openvino.PartialShape(shape))
        model.validate_nodes_and_infer_types()
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
