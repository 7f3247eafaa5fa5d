"""ONNX Runtime: on CPUs by its own kernels, on GPUs by TensorRT."""

import importlib.util
import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .interface import Run

__all__ = ["ONNXRuntimeEngine", "TensorRTEngine"]

_OPSET = 17


class ONNXRuntimeEngine:
    """Takes over a trace of the part as ONNX, with all sizes open, in float32."""

    name = "onnxruntime"
    providers = ("CPUExecutionProvider",)
    device_type = "cpu"

    def why_not(self, device: torch.device) -> str:
        if device.type != self.device_type:
            return f"{self.name} computes on {self.device_type} here, the model is on {device}"
        for package in ("onnxruntime", "onnx"):
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is missing: pip install 'deepfuse-d2[export]'"
        import onnxruntime

        missing = set(self.providers) - set(onnxruntime.get_available_providers())
        return f"this build of onnxruntime has no {', '.join(sorted(missing))}" if missing else ""

    def compile(
        self, part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], dtype: torch.dtype
    ) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            _as_onnx(part, example, dynamic), options, providers=self.providers_for(dtype)
        )
        return self.runner(session)

    def providers_for(self, dtype: torch.dtype) -> list:
        return list(self.providers)

    def runner(self, session) -> Run:
        names = [entry.name for entry in session.get_inputs()]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            arrays = [x.contiguous().numpy() for x in inputs]
            found = session.run(None, dict(zip(names, arrays, strict=True)))
            return tuple(map(torch.from_numpy, found))

        return run


class TensorRTEngine(ONNXRuntimeEngine):
    """The same graph, which TensorRT builds for the GPU at hand; float16 where asked for."""

    name = "tensorrt"
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    device_type = "cuda"

    def providers_for(self, dtype: torch.dtype) -> list:
        half = {"trt_fp16_enable": dtype is torch.float16}
        return [("TensorrtExecutionProvider", half), "CUDAExecutionProvider"]

    def runner(self, session) -> Run:
        import onnxruntime

        names = [entry.name for entry in session.get_inputs()]
        outputs = [entry.name for entry in session.get_outputs()]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            binding = session.io_binding()
            device = inputs[0].device
            kept = [x.contiguous() for x in inputs]
            for name, x in zip(names, kept, strict=True):
                # the memory of the tensor itself, without a copy
                value = onnxruntime.OrtValue.from_dlpack(torch.utils.dlpack.to_dlpack(x), False)
                binding.bind_ortvalue_input(name, value)
            for name in outputs:
                binding.bind_output(name, "cuda", device.index or 0)
            torch.cuda.current_stream(device).synchronize()
            session.run_with_iobinding(binding)
            return tuple(
                torch.utils.dlpack.from_dlpack(value.to_dlpack()) for value in binding.get_outputs()
            )

        return run


def _as_onnx(part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int]) -> bytes:
    names = [f"x{i}" for i in range(len(example))]
    axes = {
        name: {d: f"{name}_{d}" for d in dynamic if d < x.ndim}
        for name, x in zip(names, example, strict=True)
    }
    file = io.BytesIO()
    with warnings.catch_warnings():
        # of the older exporter, which takes any sizes that a trace does
        warnings.simplefilter("ignore")
        torch.onnx.export(
            part, tuple(example), file, dynamo=False, opset_version=_OPSET, input_names=names,
            dynamic_axes=axes,
        )  # fmt: skip
    return file.getvalue()
