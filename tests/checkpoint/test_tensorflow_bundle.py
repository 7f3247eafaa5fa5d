"""TensorFlow's checkpoint files, read without TensorFlow."""

import numpy as np
import pytest
import torch
from tensorflow_files import write_bundle

from deepfuse_d2.checkpoint.safe_load import load_file
from deepfuse_d2.checkpoint.tensorflow_bundle import _masked_crc
from deepfuse_d2.errors import DamagedWeightsError, WeightsError

ARRAYS = {
    "net/conv2d/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "net/conv2d_1/kernel": np.full((1, 1, 2, 3), 0.5, dtype=np.float32),
    "net/norm/gamma": np.array([1.5, -2.5], dtype=np.float16),
    "net/norm/moving_mean": np.array([1e-9, 3.0]),
    "global_step": np.int64(162050),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("shards", [1, 3])
def test_all_numbers_come_out_by_the_names_of_their_variables(tmp_path, shards):
    tensors = load_file(write_bundle(tmp_path / "model.ckpt", ARRAYS, shards=shards))
    assert set(tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors[name].shape == array.shape
        assert np.array_equal(tensors[name].numpy(), array)


def test_bfloat16_is_read_as_such(tmp_path):
    values = torch.tensor([1.5, -0.25, 1e30], dtype=torch.bfloat16)
    arrays = {"x": values.view(torch.int16).numpy().view(np.float16)}
    tensors = load_file(write_bundle(tmp_path / "model.ckpt", arrays, kinds={"x": 14}))
    assert torch.equal(tensors["x"], values)


def test_what_holds_no_numbers_is_left_out(tmp_path):
    # 7 is a string, such as the graph of objects that TensorFlow 2 adds
    index = write_bundle(tmp_path / "model.ckpt", ARRAYS, kinds={"flags": 7})
    assert set(load_file(index)) == set(ARRAYS) - {"flags"}


def test_the_checksum_is_leveldbs():
    # of RFC 3720: CRC-32C of 32 zeros is 0x8A9136AA
    crc = 0x8A9136AA
    assert _masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.9])
def test_an_index_cut_short_is_named_as_damaged(tmp_path, kept):
    index = write_bundle(tmp_path / "model.ckpt", ARRAYS)
    content = index.read_bytes()
    index.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(DamagedWeightsError, match="it is damaged or was cut short"):
        load_file(index)


def test_a_changed_byte_is_found(tmp_path):
    index = write_bundle(tmp_path / "model.ckpt", ARRAYS)
    content = bytearray(index.read_bytes())
    content[30] ^= 1
    index.write_bytes(content)
    with pytest.raises(DamagedWeightsError, match="a checksum is wrong"):
        load_file(index)


def test_a_missing_or_short_data_file_is_named(tmp_path):
    index = write_bundle(tmp_path / "model.ckpt", ARRAYS, shards=2)
    data = tmp_path / "model.ckpt.data-00001-of-00002"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(DamagedWeightsError, match="is not all in its data file"):
        load_file(index)
    data.unlink()
    with pytest.raises(WeightsError, match=r"model\.ckpt\.data-00001-of-00002 with its numbers"):
        load_file(index)


def test_a_compressed_index_is_refused_with_the_way_out(tmp_path):
    index = write_bundle(tmp_path / "model.ckpt", ARRAYS, compression=1)
    with pytest.raises(WeightsError, match="is compressed, which is not read here"):
        load_file(index)
