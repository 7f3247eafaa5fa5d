"""tools/install_detectron2.py: what it repacks, and that it never leaves half an installation."""

import csv
import hashlib
import importlib.util
import io
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture
def tool(repository):
    path = repository / "tools" / "install_detectron2.py"
    spec = importlib.util.spec_from_file_location("install_detectron2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
def trusted(tool, source_wheel, monkeypatch):
    monkeypatch.setattr(tool, "SHA256", hashlib.sha256(source_wheel.read_bytes()).hexdigest())


@pytest.mark.usefixtures("trusted")
def test_the_repacked_wheel_holds_the_python_sources_for_any_python(tool, source_wheel, tmp_path):
    assert tool.main(["--wheel", str(source_wheel), "--repack-to", str(tmp_path / "out")]) == 0
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
def test_pip_installs_the_repacked_wheel(tool, source_wheel, tmp_path):
    tool.main(["--wheel", str(source_wheel), "--repack-to", str(tmp_path / "out")])
    (wheel,) = (tmp_path / "out").iterdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", str(tmp_path / "site"), str(wheel)],
        check=True,
    )  # fmt: skip
    assert (tmp_path / "site" / "detectron2" / "layers" / "__init__.py").exists()


@pytest.mark.usefixtures("trusted")
def test_repacking_twice_gives_the_same_bytes(tool, source_wheel, tmp_path):
    wheels = [tool.repack(source_wheel, tmp_path / name) for name in ("a", "b")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()


def test_a_wheel_of_another_hash_is_refused_and_nothing_installed(
    tool, source_wheel, tmp_path, capsys
):
    assert tool.main(["--wheel", str(source_wheel), "--repack-to", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "is not the file that was reviewed" in message
    assert "Nothing was installed" in message
    assert "--from-git" in message
    assert not (tmp_path / "out").exists()


def test_without_a_network_the_other_ways_are_named(tool, monkeypatch, capsys):
    def no_network(command, **_):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(tool, "importable_version", lambda: None)
    monkeypatch.setattr(tool.subprocess, "run", no_network)
    assert tool.main([]) == 1
    message = capsys.readouterr().err
    assert "could not download sal-detectron2==0.7.2" in message
    assert "--wheel FILE" in message


def test_an_old_python_is_refused_with_what_to_do(tool):
    with pytest.raises(tool.InstallError, match=r"python 3.9 is too old.*make PYTHON=python3.11"):
        tool.check_python((3, 9, 1))


def test_a_detectron2_that_can_be_imported_is_kept(tool, capsys):
    assert tool.main([]) == 0
    assert "can be imported already; kept" in capsys.readouterr().out


def test_a_missing_wheel_is_named(tool, capsys, tmp_path):
    assert tool.main(["--wheel", "nowhere.whl", "--repack-to", str(tmp_path)]) == 1
    assert "no such file: nowhere.whl" in capsys.readouterr().err
