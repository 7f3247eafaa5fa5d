"""Runtimes that compute the dense parts of a model: tensors in, tensors out.

    name         what it is                              needs
    native       our own modules, inference/optimize/    nothing
    eager        torch as it is, norms folded            nothing
    inductor     torch.compile with frozen weights       a C++ compiler; on a GPU, triton
    aot          torch's compiler, run by deepfuse pack   a model folder with packages
    openvino     OpenVINO, on CPUs                       the extra "openvino"
    onnxruntime  ONNX Runtime, on CPUs                   the extra "export"
    tensorrt     TensorRT in ONNX Runtime, on GPUs       onnxruntime-gpu and TensorRT

Proposals, suppression, RoIAlign and the pasting of masks are not dense and stay in torch. An
engine is one file with one class, see :class:`.interface.Engine`, and one line in :data:`ENGINES`.
"""

from .build import ENGINES, build_engine, run_in_engine

__all__ = ["ENGINES", "build_engine", "run_in_engine"]
