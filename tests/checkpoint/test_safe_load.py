"""No weights file runs code: what is refused, and what it is told."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from deepfuse_d2.checkpoint.safe_load import load_file
from deepfuse_d2.errors import DamagedWeightsError, WeightsError

# What an array is unpickled by; NumPy 2 has it in another module than NumPy 1.
RECONSTRUCT = np.zeros(1).__reduce__()[0]


class Call:
    """Unpickling it calls `function`; BUILD then sets `state`, if there is one."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def refuse(path, content, message, error=WeightsError):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=4))
    with pytest.raises(error, match=message):
        load_file(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numbers_of_every_protocol_are_read(tmp_path, protocol):
    content = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "half": np.ones(2, np.float16),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 4), np.int64),
        "nested": [OrderedDict(a=np.array(True)), (1, "text", b"bytes", None)],
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = load_file(tmp_path / "x.pkl")
    assert list(loaded) == list(content)
    for name in ("c", "fortran", "big", "half", "empty"):
        assert loaded[name].dtype == content[name].dtype
        np.testing.assert_array_equal(loaded[name], content[name])
    assert loaded["scalar"] == 3
    assert loaded["nested"][0]["a"]
    assert tuple(loaded["nested"][1]) == (1, "text", b"bytes", None)


def test_a_pickle_of_python_2_is_read(tmp_path):
    # what python 2 writes for {"w": numpy.array([1, 2], "f4")}: the bytes are a string
    text = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
    )
    (tmp_path / "x.pkl").write_bytes(text)
    assert load_file(tmp_path / "x.pkl")["w"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch executed",), r"(posix|nt)\.system"),
        (eval, ("open('executed', 'w')",), r"builtins\.eval"),
        (subprocess.call, (["touch", "executed"],), r"subprocess\.call"),
        (getattr, (np.ndarray, "tofile"), r"builtins\.getattr"),
        (np.load, ("executed.npy",), r"numpy\.load"),
        (np.fromfile, ("x",), r"numpy.*fromfile"),
    ],
)
@pytest.mark.parametrize("where", ["top", "value", "key", "state of an array"])
def test_a_pickle_that_calls_anything_is_refused_by_the_name_of_it(
    tmp_path, monkeypatch, function, args, name, where
):
    monkeypatch.chdir(tmp_path)
    bomb = Call(function, *args)
    contents = {
        "top": bomb,
        "value": {"model": {"a": [OrderedDict(b=bomb)]}},
        "key": {(1, bomb): 2},
        "state of an array": Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, bomb)),
    }
    refuse(tmp_path / "x.pkl", contents[where], rf"asks for {name}.*If you trust the file")
    assert sorted(os.listdir(tmp_path)) == ["x.pkl"]


def test_the_parts_of_an_allowed_name_are_refused(tmp_path):
    # protocol 4 looks up dotted names; numpy's ndarray has methods that write files
    refuse(
        tmp_path / "x.pkl",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        r"asks for numpy\.ndarray\.tofile",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(np.dtype, "O"), "no number type"),
        (Call(np.dtype, [("a", "O")]), "no number type"),
        (Call(np.dtype, "V8"), "no number type"),
        # the type claims by its state to be records, in which raw bytes may be pointers
        (
            Call(np.dtype, "i8", state=(3, "|", None, ("a",), {"a": (np.dtype("i8"), 0)}, 8, 1, 0)),
            "records",
        ),
        (np.array([{}, None]), "no number type"),
        (np.zeros(3, "M8[s]"), "no number type"),
        # NumPy's own constructor would allocate a terabyte
        (Call(np.ndarray, (1 << 40,), "u1"), "not made of bytes"),
        (
            Call(RECONSTRUCT, np.ndarray, (0,), b"b"),
            "not made of bytes",
        ),
        (np.ndarray, "a function where an array"),
    ],
)
def test_an_array_of_anything_but_numbers_is_refused(tmp_path, content, message):
    refuse(tmp_path / "x.pkl", {"w": content}, message)


@pytest.mark.parametrize("shape", [(1 << 40,), (-1,), (3,)])
def test_an_array_of_another_size_than_its_bytes_is_refused(tmp_path, shape):
    state = (1, shape, np.dtype("u1"), False, b"\0\0")
    array = Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)
    refuse(tmp_path / "x.pkl", {"w": array}, "x.pkl cannot be read", DamagedWeightsError)


def test_bytes_in_another_encoding_than_numpys_are_refused(tmp_path):
    import _codecs

    refuse(tmp_path / "x.pkl", Call(_codecs.encode, "x", "idna"), "bytes encoded as 'idna'")


def test_a_pickle_cannot_change_the_functions_that_read_it(tmp_path):
    # GLOBAL numpy.dtype, then BUILD with a state: sets attributes of what was looked up
    attack = b"cnumpy\ndtype\n(dS'_function'\nS'x'\nsb."
    refuse(tmp_path / "x.pkl", attack, "attempt to change a function")
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"w": np.ones(2)}))
    assert load_file(tmp_path / "y.pkl")["w"].tolist() == [1, 1]


def test_containers_in_themselves_and_a_thousand_deep_are_refused(tmp_path):
    endless = []
    endless.append(endless)
    refuse(tmp_path / "x.pkl", {"w": endless}, "nested more than")
    deep = np.ones(1)
    for _ in range(100):
        deep = [deep]
    refuse(tmp_path / "y.pkl", {"w": deep}, "nested more than")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_that_calls_anything_is_refused_by_the_name_of_it(tmp_path, legacy):
    path = tmp_path / "x.pth"
    bomb = {"model": {"w": torch.ones(1), "x": Call(os.mkdir, str(tmp_path / "executed"))}}
    torch.save(bomb, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.mkdir\. If you trust the file"):
        load_file(path)
    assert not (tmp_path / "executed").exists()


def test_the_advice_for_a_trusted_file_works(tmp_path, monkeypatch):
    model = nn.Linear(2, 1)
    for suffix, content in (
        # a whole module, as torch.save(model) writes it, beside its weights
        ("pth", {"state_dict": model.state_dict(), "args": model}),
        ("pkl", {"model": {"weight": np.ones((1, 2))}, "args": os.getcwd}),
    ):
        path = tmp_path / f"x.{suffix}"
        if suffix == "pth":
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content))
        with pytest.raises(WeightsError) as caught:
            load_file(path)
        program = str(caught.value).split("\n  python -c '")[1].split("' ")[0]
        monkeypatch.setattr(sys, "argv", ["-c", str(path), str(tmp_path / f"new_{suffix}.pth")])
        exec(program, {})
        assert load_file(tmp_path / f"new_{suffix}.pth")["weight"].shape == (1, 2)


def test_a_torchscript_program_is_refused_and_told_apart(tmp_path):
    torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(str(tmp_path / "x.pth"))
    with pytest.raises(WeightsError, match="is a TorchScript program"):
        load_file(tmp_path / "x.pth")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.97])
@pytest.mark.parametrize("kind", ["pth", "legacy.pth", "pkl", "safetensors"])
def test_a_file_cut_short_is_named_as_damaged(tmp_path, kind, kept):
    from safetensors.torch import save

    state = {"weight": torch.rand(100, 100)}
    buffer = io.BytesIO()
    if kind.endswith("pth"):
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "pth")
    elif kind == "pkl":
        buffer.write(pickle.dumps({"weight": state["weight"].numpy()}))
    else:
        buffer.write(save(state))
    whole = buffer.getvalue()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(DamagedWeightsError, match=rf"cut\.{kind} cannot be read as .* damaged"):
        load_file(path)
    path.write_bytes(whole)
    assert "weight" in (load_file(path).get("model") or load_file(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>404: not found</html>", r"x\.pth is a web page, not weights: .*save the file"),
        ("\n <!DOCTYPE HTML><head>Sign in</head>", "is a web page"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102502400\n",
            r"x\.pth is a pointer of Git LFS \(74 bytes\), .*`git lfs pull`",
        ),
        ('{"message": "Not Found"}', 'is text, not weights; it begins with "{"message": "Not F'),
        ("Zu viele Anfragen für heute.\n" * 99, "is text, not weights; .*what went wrong there"),
    ],
)
def test_what_is_stored_in_place_of_weights_is_called_what_it_is(tmp_path, content, message):
    (tmp_path / "x.pth").write_text(content)
    with pytest.raises(DamagedWeightsError, match=message):
        load_file(tmp_path / "x.pth")


def test_packed_files_are_to_be_unpacked(tmp_path):
    torch.save({"a": torch.ones(9)}, tmp_path / "plain.pth")
    (tmp_path / "x.pth").write_bytes(gzip.compress((tmp_path / "plain.pth").read_bytes()))
    with pytest.raises(WeightsError, match=r"x\.pth is packed with gzip; unpack it"):
        load_file(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        archive.write(tmp_path / "plain.pth", "plain.pth")
    with pytest.raises(WeightsError, match="is a zip archive, but not one that torch wrote"):
        load_file(tmp_path / "y.pth")


def test_a_lone_tensor_is_no_weights_file(tmp_path):
    torch.save(torch.ones(1), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="holds a Tensor, not a mapping of names"):
        load_file(tmp_path / "x.pth")
