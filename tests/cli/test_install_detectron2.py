"""deepfuse install-detectron2: what it repacks, and that it never leaves half an installation."""

import csv
import hashlib
import io
import subprocess
import sys
import zipfile

import pytest

from deepfuse_d2.cli import install_detectron2


@pytest.fixture
def source_wheel(tmp_path):
    """A small wheel with the shape of the real one."""
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("detectron2/__init__.py", "__version__ = 'x'\n")
        wheel.writestr("detectron2/layers/__init__.py", "")
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


def test_a_detectron2_that_can_be_imported_is_kept(deepfuse, capsys):
    assert deepfuse("install-detectron2") == 0
    assert "can be imported already; kept" in capsys.readouterr().out


def test_a_missing_wheel_is_named(deepfuse, capsys, tmp_path):
    assert (
        deepfuse("install-detectron2", "--wheel", "nowhere.whl", "--repack-to", str(tmp_path)) == 1
    )
    assert "no such file: nowhere.whl" in capsys.readouterr().err
