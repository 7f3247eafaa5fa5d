"""What a machine can do is asked of all who know, and what is private to torch in one place."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.kernels import capabilities
from deepfuse_d2.kernels.capabilities import KINDS, has_bfloat16, has_packed, isa

# of the file alone, since the package around it takes seconds to import
SCRIPT = f"""
import runpy, torch
found = runpy.run_path({capabilities.__file__!r})
print(found["isa"](), found["has_bfloat16"](), found["has_packed"](torch.float32))
"""

# environment -> the best kind that it leaves
EMULATED = {
    ("default", None): "default",
    ("avx2", None): "avx2",
    (None, "AVX2"): "avx2",
    (None, "AVX512_CORE"): "avx512",
}


def kind_under(of_torch, of_onednn):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    }
    if of_torch:
        environment["ATEN_CPU_CAPABILITY"] = of_torch
    if of_onednn:
        environment["ONEDNN_MAX_CPU_ISA"] = of_onednn
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.fixture(scope="module")
def real():
    """The kind of this machine, whatever the tests run under."""
    return kind_under(None, None)[0]


@pytest.mark.parametrize(("environment", "most"), list(EMULATED.items()))
def test_an_emulated_machine_is_the_least_of_what_is_there_and_what_is_left(
    environment, most, real
):
    kind, bfloat16, packed = kind_under(*environment)
    assert kind == min(real, most, key=KINDS.index)
    assert bfloat16 == str(kind in ("avx512_bf16", "amx"))
    assert packed == str(has_packed(torch.float32))


@pytest.mark.parametrize(
    ("value", "most"),
    [
        ("", "amx"),
        ("ALL", "amx"),
        ("SSE41", "default"),
        ("avx", "default"),
        ("AVX2_VNNI_2", "avx2"),
        ("AVX512_CORE_VNNI", "avx512"),
        ("AVX512_CORE_BF16", "avx512_bf16"),
        ("AVX512_CORE_FP16", "avx512_bf16"),
        ("AVX512_CORE_AMX", "amx"),
        ("AVX10_1_512", "amx"),
    ],
)
def test_all_values_of_onednns_variable_are_known(value, most, monkeypatch):
    monkeypatch.setattr(capabilities, "_query", lambda ask: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
    assert capabilities._of_onednn() == most


def test_what_torch_no_longer_has_or_does_wrong_is_not_relied_upon(monkeypatch):
    def wrong(*args, **options):
        return torch.zeros(1, 16, 2, 2)

    def gone(*args, **options):
        raise AttributeError("no such operator")

    for fault in (wrong, gone):
        monkeypatch.setattr(capabilities, "packed_convolution", fault)
        capabilities._packs.cache_clear()
        assert not has_packed(torch.float32)
    monkeypatch.undo()
    capabilities._packs.cache_clear()
    assert not has_packed(torch.float64)
    assert not has_packed(torch.int64)


def test_bfloat16_is_not_packed_where_onednn_cannot(monkeypatch):
    """Nor does a caller fail that asks for it."""
    from deepfuse_d2.kernels.packed_conv import InferenceConv2d
    from deepfuse_d2.kernels.winograd import WinogradConv2d

    monkeypatch.setattr(capabilities, "_packs", lambda dtype: dtype is torch.float32)
    conv = torch.nn.Conv2d(128, 128, 3, padding=1)
    fast = InferenceConv2d(conv, dtype=torch.bfloat16, pack=True)
    assert fast.packed is None
    x = torch.randn(1, 128, 6, 6).bfloat16()
    with torch.no_grad():
        expected = F.conv2d(x, conv.weight.bfloat16(), conv.bias.bfloat16(), padding=1)
        torch.testing.assert_close(fast(x), expected, rtol=2e-2, atol=2e-2)
        tiled = WinogradConv2d(conv.weight.bfloat16(), conv.bias.bfloat16())
        torch.testing.assert_close(tiled(x), expected, rtol=5e-2, atol=5e-2)


@pytest.mark.skipif(not has_packed(torch.float32), reason="torch without oneDNN")
def test_without_onednn_nothing_is_packed_and_bfloat16_is_slow(monkeypatch):
    with torch.backends.mkldnn.flags(enabled=False):
        assert not has_packed(torch.float32)
    assert has_packed(torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16()
    assert not has_packed(torch.float32)


@pytest.mark.parametrize("has_lists", [True, False])
def test_many_tensors_are_changed_as_one_by_one(has_lists, monkeypatch):
    monkeypatch.setattr(capabilities, "_has_lists", lambda: has_lists)
    values = [torch.randn(3), torch.randn(2, 2).double(), torch.full((1,), float("nan"))]
    ends = [torch.randn_like(value) for value in values]
    largest = capabilities.largest_magnitudes(values)
    torch.testing.assert_close(largest[:2], [value.abs().max() for value in values[:2]])
    assert largest[2].isnan()
    moved = [value.clone() for value in values]
    capabilities.interpolate_all_(moved, ends, 0.25)
    expected = [a + 0.25 * (b - a) for a, b in zip(values, ends, strict=True)]
    torch.testing.assert_close(moved, expected, equal_nan=True)
    capabilities.copy_all_(moved, ends)
    torch.testing.assert_close(moved, ends, rtol=0, atol=0)


PRIVATE = re.compile(
    r"torch\._([a-z]|C\b)|torch\.ops\.(?!torchvision)|torch\.cpu\._"
    r"|torch\.[a-z.]*\._config|from torch\._"
)
# documented under these names: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
DOCUMENTED = re.compile(r"from torch\._inductor import aoti_(compile_and_package|load_package)$")


def test_nothing_else_uses_private_operators_of_torch(repository):
    uses = {
        f"{path.relative_to(repository)}: {line.strip()}"
        for folder in ("deepfuse_d2", "benchmarks", "tools", "datasets")
        for path in (repository / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if PRIVATE.search(line) and not DOCUMENTED.search(line)
    }
    assert {use.split(":")[0] for use in uses} == {"deepfuse_d2/kernels/capabilities.py"}, uses


def test_this_machine_is_of_a_known_kind():
    assert isa() in KINDS
    assert has_bfloat16() is (isa() in ("avx512_bf16", "amx"))
