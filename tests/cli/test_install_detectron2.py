"""deepfuse install-detectron2: what it repacks, and that it never leaves half an installation."""

import csv
import hashlib
import io
import subprocess
import sys
import zipfile

import detectron2
import pytest

from deepfuse_d2.cli import install_detectron2

MODEL_ZOO = """\
import os
import pkg_resources

def get_config_file(config_path):
    cfg_file = pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )
    return cfg_file
"""


@pytest.fixture
def source_wheel(tmp_path):
    """A small wheel with the shape of the real one."""
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("detectron2/__init__.py", "__version__ = 'x'\n")
        wheel.writestr("detectron2/layers/__init__.py", "")
        wheel.writestr("detectron2/model_zoo/__init__.py", "")
        wheel.writestr("detectron2/model_zoo/model_zoo.py", MODEL_ZOO)
        wheel.writestr("detectron2/model_zoo/configs/one.yaml", "")
        wheel.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", b"\x7fELF")
        wheel.writestr("tools/train_net.py", "print('stray')\n")
        wheel.writestr("sal_detectron2-0.7.2.dist-info/LICENSE", "Apache License\n")
        wheel.writestr("sal_detectron2-0.7.2.dist-info/METADATA", "Requires-Dist: numpy<2\n")
    return path


@pytest.fixture
def trusted(deepfuse, source_wheel, monkeypatch):
    monkeypatch.setattr(
        install_detectron2, "SHA256", hashlib.sha256(source_wheel.read_bytes()).hexdigest()
    )


@pytest.mark.usefixtures("trusted")
def test_the_repacked_wheel_holds_the_python_sources_for_any_python(
    deepfuse, source_wheel, tmp_path
):
    assert (
        deepfuse(
            "install-detectron2", "--wheel", str(source_wheel), "--repack-to", str(tmp_path / "out")
        )
        == 0
    )
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith("/METADATA")).split("/")[0]
        assert {name for name in names if not name.startswith(info)} == {
            "detectron2/__init__.py",
            "detectron2/layers/__init__.py",
            "detectron2/model_zoo/__init__.py",
            "detectron2/model_zoo/model_zoo.py",
            "detectron2/model_zoo/configs/one.yaml",
        }
        assert f"{info}/LICENSE" in names
        assert b"numpy<2" not in archive.read(f"{info}/METADATA")
        assert b"Tag: py3-none-any" in archive.read(f"{info}/WHEEL")
        rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
        assert {row[0] for row in rows} == set(names)


@pytest.mark.usefixtures("trusted")
def test_pip_installs_the_repacked_wheel(deepfuse, source_wheel, tmp_path):
    deepfuse(
        "install-detectron2", "--wheel", str(source_wheel), "--repack-to", str(tmp_path / "out")
    )
    (wheel,) = (tmp_path / "out").iterdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", str(tmp_path / "site"), str(wheel)],
        check=True,
    )  # fmt: skip
    assert (tmp_path / "site" / "detectron2" / "layers" / "__init__.py").exists()
    # without setuptools' pkg_resources
    script = "from detectron2.model_zoo.model_zoo import get_config_file as f; print(f('one.yaml'))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path / "site", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip().endswith("detectron2/model_zoo/configs/one.yaml")


@pytest.mark.usefixtures("trusted")
def test_a_file_to_mend_that_is_another_one_is_refused(source_wheel, tmp_path, monkeypatch):
    tool = install_detectron2
    monkeypatch.setitem(tool.MENDED, "detectron2/__init__.py", [("__version__ = 'y'", "")])
    with pytest.raises(tool.InstallError, match=r"detectron2/__init__\.py of sal-detectron2"):
        tool.repack(source_wheel, tmp_path)


def test_an_earlier_repacking_is_replaced_and_others_are_kept(monkeypatch):
    tool = install_detectron2
    for version, outdated in (
        ("0.7.2+a59f056", True),
        (tool.VERSION, False),
        ("0.6", False),
    ):
        monkeypatch.setattr(tool.importlib.metadata, "version", lambda name, v=version: v)
        assert tool.is_outdated() is outdated


def test_the_model_zoo_of_this_environment_imports(tmp_path):
    """Of the one that was set up by the script; others are as they are."""
    if detectron2.__version__ != "0.7.2":
        pytest.skip("another detectron2")
    script = "from detectron2 import model_zoo; model_zoo.get_config_file('Base-RCNN-FPN.yaml')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, check=True)


@pytest.mark.usefixtures("trusted")
def test_repacking_twice_gives_the_same_bytes(deepfuse, source_wheel, tmp_path):
    wheels = [install_detectron2.repack(source_wheel, tmp_path / name) for name in ("a", "b")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()


def test_a_wheel_of_another_hash_is_refused_and_nothing_installed(
    deepfuse, source_wheel, tmp_path, capsys
):
    assert (
        deepfuse(
            "install-detectron2", "--wheel", str(source_wheel), "--repack-to", str(tmp_path / "out")
        )
        == 1
    )
    message = capsys.readouterr().err
    assert "is not the file that was reviewed" in message
    assert "Nothing was installed" in message
    assert "--from-git" in message
    assert not (tmp_path / "out").exists()


def test_without_a_network_the_other_ways_are_named(deepfuse, monkeypatch, capsys):
    def no_network(command, **_):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(install_detectron2, "importable_version", lambda: None)
    monkeypatch.setattr(install_detectron2.subprocess, "run", no_network)
    assert deepfuse("install-detectron2") == 1
    message = capsys.readouterr().err
    assert "could not download sal-detectron2==0.7.2" in message
    assert "--wheel FILE" in message


def test_an_old_python_is_refused_with_what_to_do():
    with pytest.raises(
        install_detectron2.InstallError, match=r"python 3.9 is too old.*make PYTHON=python3.11"
    ):
        install_detectron2.check_python((3, 9, 1))


def test_a_detectron2_that_can_be_imported_is_kept(deepfuse, capsys, monkeypatch):
    monkeypatch.setattr(install_detectron2, "is_outdated", lambda: False)
    assert deepfuse("install-detectron2") == 0
    assert "can be imported already; kept" in capsys.readouterr().out


def test_a_missing_wheel_is_named(deepfuse, capsys, tmp_path):
    assert (
        deepfuse("install-detectron2", "--wheel", "nowhere.whl", "--repack-to", str(tmp_path)) == 1
    )
    assert "no such file: nowhere.whl" in capsys.readouterr().err
