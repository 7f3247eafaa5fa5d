import stat
import zipfile

import pytest

STEMS = [f"FudanPed{i:05d}" for i in range(1, 75)] + [f"PennPed{i:05d}" for i in range(1, 97)]


@pytest.fixture
def content():
    """Path in the archive -> bytes, of a complete set with JPEG images."""
    files = {"PennFudanPed/readme.txt": b"read me"}
    for stem in STEMS:
        files[f"PennFudanPed/PNGImages/{stem}.jpg"] = f"image {stem}".encode()
        files[f"PennFudanPed/PedMasks/{stem}_mask.png"] = f"mask {stem}".encode()
        files[f"PennFudanPed/Annotation/{stem}.txt"] = b"text"
    return files


@pytest.fixture
def run(deepfuse, tmp_path, capsys, monkeypatch):
    """Run the command with tmp_path/root as root; return exit code, output and errors."""
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)

    def run(source, *options):
        words = ("--source", source, "--root", tmp_path / "root", *options)
        return deepfuse("prepare", "pennfudan", *words), *capsys.readouterr()

    return run


def write_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_folder(path, content):
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def left_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_zip_is_extracted_and_a_second_run_keeps_it(run, content, tmp_path):
    source = write_zip(tmp_path / "PennFudanPed.zip", content)
    code, output, _ = run(source)
    target = tmp_path / "root" / "PennFudanPed"
    assert code == 0
    assert f"lies in {target}: 170 images with labels (128 train, 42 val)" in output
    assert f"DETECTRON2_DATASETS={tmp_path / 'root'}" in output
    assert (target / "PNGImages" / "PennPed00096.jpg").read_bytes() == b"image PennPed00096"
    assert left_in(tmp_path / "root") == ["PennFudanPed"]

    (target / "mine.txt").write_text("kept")
    source.unlink()
    assert run(source)[0] == 0
    assert (target / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("inner", ["", "PennFudanPed"])
def test_a_folder_is_copied_though_it_is_read_only(run, content, tmp_path, inner):
    source = write_folder(tmp_path / "source", content)
    folders = [source / "PennFudanPed" / "PNGImages", source / "PennFudanPed"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert run(source / "PennFudanPed" if not inner else source)[0] == 0
    finally:
        for folder in reversed(folders):
            folder.chmod(0o755)
    target = tmp_path / "root" / "PennFudanPed"
    assert (target / "PedMasks" / "FudanPed00074_mask.png").is_file()
    assert target.stat().st_mode & stat.S_IWUSR
    assert (target / "PNGImages").stat().st_mode & stat.S_IWUSR


def test_a_folder_can_be_linked(run, content, tmp_path):
    source = write_folder(tmp_path / "source", content) / "PennFudanPed"
    assert run(source, "--link")[0] == 0
    target = tmp_path / "root" / "PennFudanPed"
    assert target.is_symlink()
    assert target.resolve() == source.resolve()
    assert left_in(tmp_path / "root") == ["PennFudanPed"]
    assert run(source, "--link")[0] == 0

    code, _, error = run(write_zip(tmp_path / "a.zip", content), "--link")
    assert code == 0  # it lies there already
    target.unlink()
    code, _, error = run(tmp_path / "a.zip", "--link")
    assert code == 2
    assert "--link needs a folder" in error


def test_an_incomplete_source_is_told_and_nothing_appears(run, content, tmp_path):
    del content["PennFudanPed/PedMasks/FudanPed00007_mask.png"]
    content["PennFudanPed/PNGImages/PennPed00001.jpg"] = b""
    for source in (
        write_zip(tmp_path / "PennFudanPed.zip", content),
        write_folder(tmp_path / "source", content),
    ):
        for options in ([], ["--link"] if source.is_dir() else []):
            code, _, error = run(source, *options)
            assert code == 2
            assert "is not complete: 2 files are missing" in error
            assert "PedMasks/FudanPed00007_mask.png, PNGImages/PennPed00001.png" in error
            assert left_in(tmp_path / "root") == []


def test_an_incomplete_target_is_never_touched(run, content, tmp_path):
    mine = tmp_path / "root" / "PennFudanPed" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("kept")
    code, _, error = run(write_zip(tmp_path / "PennFudanPed.zip", content))
    assert code == 2
    assert "exists and is not complete (340 files are missing" in error
    assert "Move it away" in error
    assert left_in(mine.parent) == ["mine.txt"]


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "/evil.png", "PennFudanPed/../../evil.png", "C:\\evil.png", "..\\evil.png"],
)
def test_an_archive_that_reaches_outside_is_refused(run, content, tmp_path, name):
    source = write_zip(tmp_path / "PennFudanPed.zip", {**content, name: b"evil"})
    code, _, error = run(source)
    assert code == 2
    assert "would leave the folder" in error
    assert not list(tmp_path.rglob("*evil*"))
    assert left_in(tmp_path / "root") == []


def test_a_link_in_an_archive_is_refused(run, content, tmp_path):
    source = write_zip(tmp_path / "PennFudanPed.zip", content)
    with zipfile.ZipFile(source, "a") as archive:
        link = zipfile.ZipInfo("PennFudanPed/PNGImages/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    code, _, error = run(source)
    assert code == 2
    assert "link.png" in error


def test_a_damaged_or_absent_source_is_told(run, content, tmp_path):
    source = write_zip(tmp_path / "PennFudanPed.zip", content)
    whole = source.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(b"image FudanPed00001")] ^= 0xFF
    for data in (whole[: len(whole) // 2], b"", bytes(damaged)):
        source.write_bytes(data)
        code, _, error = run(source)
        assert code == 2
        assert "is no zip file or tar file that can be read" in error
        assert left_in(tmp_path / "root") == []
    code, _, error = run(tmp_path / "absent.zip")
    assert code == 2
    assert "absent.zip does not exist" in error
    (tmp_path / "empty").mkdir()
    code, _, error = run(tmp_path / "empty")
    assert "holds neither PNGImages nor PennFudanPed/PNGImages" in error
