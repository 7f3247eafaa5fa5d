import pytest

from deepfuse_d2.files import written_whole


def test_what_was_written_gets_its_name_at_the_end(tmp_path):
    path = tmp_path / "folder" / "result.txt"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_is_as_it_was_and_nothing_is_left_behind(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def write_half():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
