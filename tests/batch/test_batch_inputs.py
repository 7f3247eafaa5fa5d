"""What is to be predicted: found in the same order each time, listed, and read again in groups."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepfuse_d2.batch.inputs import find_inputs, read_group, write_list
from deepfuse_d2.errors import ConfigError, ImageError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.png", "deep/c.JPG", "deep/er/d.webp", "notes.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def names(*sources, **options):
    return [image.name for image in find_inputs(sources, **options)]


def listed(images, path, group):
    count = write_list(images, path, group).images
    return [list(read_group(path, number)) for number in range(-(-count // group))]


def test_a_folder_is_walked_by_name(photos):
    assert names(photos) == ["a.png", "b.jpg", "deep/c.JPG", "deep/er/d.webp"]


def test_a_pattern_finds_what_a_shell_would(photos):
    assert names(f"{photos}/**/*.[jJ]*") == [f"{photos}/b.jpg", f"{photos}/deep/c.JPG"]


def test_a_text_file_is_a_list_of_paths(photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"{photos}/b.jpg\n\n{photos}/missing.jpg\n")
    assert names(tmp_path / "list.txt") == [f"{photos}/b.jpg", f"{photos}/missing.jpg"]


def test_groups_of_the_list_hold_the_images_in_order(photos, tmp_path):
    groups = listed(find_inputs([photos, photos / "b.jpg"]), tmp_path / "list.parquet", 2)
    assert [len(group) for group in groups] == [2, 2, 1]
    assert groups[1][0] == ("deep/c.JPG", str(photos / "deep/c.JPG"))
    assert groups[2][0][1] == str(photos / "b.jpg")


def test_the_list_can_be_given_in_place_of_what_it_was_made_from(photos, tmp_path):
    first = write_list(find_inputs([photos]), tmp_path / "list.parquet", 3)
    again = write_list(find_inputs([tmp_path / "list.parquet"]), tmp_path / "again.parquet", 2)
    assert first == again
    (photos / "new.jpg").touch()
    assert write_list(find_inputs([photos]), tmp_path / "more.parquet", 3) != first


def test_a_name_that_is_no_text_is_read_under_its_bytes(tmp_path):
    path = tmp_path.joinpath("in", "caf\udce9.jpg")
    path.parent.mkdir()
    path.touch()
    ((name, source),) = listed(find_inputs([path.parent]), tmp_path / "list.parquet", 4)[0]
    assert (name, source) == ("caf?.jpg", str(path))


def test_parquet_of_paths(photos, tmp_path):
    pq.write_table(pa.table({"path": [str(photos / "b.jpg")], "x": [1]}), tmp_path / "p.parquet")
    assert names(tmp_path / "p.parquet") == [str(photos / "b.jpg")]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_parquet_of_files_is_read_row_by_row_whatever_its_row_groups(tmp_path, rows):
    contents = [f"image {k}".encode() for k in range(50)]
    pq.write_table(pa.table({"bytes": contents}), tmp_path / "p.parquet", row_group_size=rows)
    groups = listed(find_inputs([tmp_path / "p.parquet"]), tmp_path / "list.parquet", 7)
    assert [source for group in groups for _, source in group] == contents
    assert groups[1][0][0] == "p.parquet:7"


def test_parquet_of_a_public_data_set_holds_structs_and_names(tmp_path):
    images = [{"bytes": b"one", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}]
    table = pa.table({"image": images, "id": [11, 22]})
    pq.write_table(table, tmp_path / "p.parquet")
    (group,) = listed(find_inputs([tmp_path / "p.parquet"]), tmp_path / "list.parquet", 7)
    assert group[0] == ("11", b"one")
    assert group[1][0] == "22"
    assert isinstance(group[1][1], ImageError)
    assert str(group[1][1]) == f"Row 1 of {tmp_path}/p.parquet is empty."


def test_a_parquet_file_that_has_become_shorter_is_an_error_for_its_rows(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"bytes": [b"1", b"2", b"3"]}), path)
    write_list(find_inputs([path]), tmp_path / "list.parquet", 7)
    pq.write_table(pa.table({"bytes": [b"1"]}), path)
    (_, first), (_, second), (_, third) = read_group(tmp_path / "list.parquet", 0)
    assert first == b"1"
    assert "cannot be read: it has no row 1 any more" in str(second)
    assert "cannot be read" in str(third)


def test_what_is_no_input_says_so(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    cases = {
        tmp_path / "missing": (ImageError, "missing does not exist"),
        tmp_path / "empty": (ImageError, "empty holds no image: give a folder"),
        tmp_path / "x.parquet": (ConfigError, "has the columns x; say by --column"),
        tmp_path / "broken.parquet": (ImageError, "cannot be read as Parquet"),
    }
    for source, (kind, message) in cases.items():
        with pytest.raises(kind, match=message):
            names(source)
    with pytest.raises(ConfigError, match=r"--column y: .* has the columns x"):
        names(tmp_path / "x.parquet", column="y")
    with pytest.raises(ConfigError, match=r"Column x .* holds int64; expected paths"):
        names(tmp_path / "x.parquet", column="x")
