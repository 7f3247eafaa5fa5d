import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data import cache as cache_module
from deepfuse_d2.data.cache import Frame, cache_folder, parse_cached
from deepfuse_d2.data.problems import collect_problems
from deepfuse_d2.errors import DatasetError
from deepfuse_d2.files import cache_home

REPOSITORY = Path(__file__).parents[2]


class Recorder:
    """A parser that remembers the frames it was called for."""

    def __init__(self, fail_on=()):
        self.keys = []
        self.fail_on = fail_on

    def __call__(self, frame):
        if frame.key in self.fail_on:
            raise DatasetError(f"{frame.sources[0]} is damaged.")
        self.keys.append(frame.key)
        text = Path(frame.sources[0]).read_text()
        for product in frame.products:
            Path(product).write_text(text.upper())
        return [text]


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    made = []
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"text {i}")
        made.append(Frame(str(i), (str(folder / f"{i}.txt"),)))
    return made


def load(frames, parse, *, version=1, **options):
    root = Path(frames[0].sources[0]).parent
    parsed = parse_cached(frames, parse, root=root, name="texts", version=version, **options)
    return [value for _, value in parsed]


def cache_file(frames):
    return cache_folder(Path(frames[0].sources[0]).parent) / "texts.json"


def test_a_second_load_parses_nothing_and_gives_the_same(frames):
    first, second = Recorder(), Recorder()
    values = load(frames, first)
    assert values == [["text 0"], ["text 1"], ["text 2"], ["text 3"]]
    assert first.keys == ["0", "1", "2", "3"]
    assert load(frames, second) == values
    assert second.keys == []


def test_only_a_frame_with_a_changed_file_is_parsed_again(frames):
    load(frames, Recorder())
    source = Path(frames[2].sources[0])
    source.write_text("another text")
    again = Recorder()
    assert load(frames, again)[2] == ["another text"]
    assert again.keys == ["2"]

    # the same size at another time
    os.utime(source, ns=(1, 1))
    again = Recorder()
    load(frames, again)
    assert again.keys == ["2"]


def test_new_frames_are_added_and_gone_frames_are_left_out(frames):
    load(frames[:2], Recorder())
    again = Recorder()
    assert load(frames[1:], again) == [["text 1"], ["text 2"], ["text 3"]]
    assert again.keys == ["2", "3"]
    assert sorted(json.loads(cache_file(frames).read_text())["frames"]) == ["1", "2", "3"]


def test_another_parser_version_makes_the_cache_void(frames):
    load(frames, Recorder())
    again = Recorder()
    load(frames, again, version=2)
    assert len(again.keys) == 4


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 1, "version": 1}', "[]", '{"format":1,"version":1,"frames":3}']
)
def test_a_damaged_cache_is_told_once_and_made_again(frames, caplog, content):
    load(frames, Recorder())
    cache_file(frames).write_text(content)
    again = Recorder()
    with caplog.at_level(logging.WARNING):
        load(frames, again)
    assert len(again.keys) == 4
    assert any("texts.json is damaged" in message for message in caplog.messages)
    last = Recorder()
    load(frames, last)
    assert last.keys == []


def test_all_is_parsed_before_an_error_is_raised_and_kept_for_the_next_time(frames):
    with pytest.raises(DatasetError, match=r"2\.txt is damaged\.$"):
        load(frames, Recorder(fail_on="2"))
    again = Recorder()
    load(frames, again)
    assert again.keys == ["2"]


@pytest.mark.parametrize("has_cache", [False, True])
def test_the_first_damaged_file_is_named_and_the_others_are_counted(frames, user_cache, has_cache):
    if not has_cache:
        user_cache.write_text("a file where the folder should be")
    recorder = Recorder(fail_on={"1", "3"})
    with pytest.raises(DatasetError, match=r"1\.txt is damaged\. So it is with 1 other file: "):
        load(frames, recorder)
    with collect_problems() as problems:
        assert load(frames, recorder) == [["text 0"], ["text 2"]]
    assert [Path(problem.split()[0]).name for problem in problems] == ["1.txt", "3.txt"]
    with pytest.raises(DatasetError):  # the collector is gone
        load(frames, recorder, version=2)


def test_a_check_goes_on_without_the_vanished_files(frames):
    Path(frames[3].sources[0]).unlink()
    with collect_problems() as problems:
        assert load(frames, Recorder()) == [["text 0"], ["text 1"], ["text 2"]]
    (problem,) = problems
    assert "3.txt is missing" in problem


def test_a_product_that_was_deleted_or_changed_is_made_again(frames):
    folder = Path(frames[0].sources[0]).parent
    frames = [frame._replace(products=(str(folder / f"{frame.key}.out"),)) for frame in frames]
    load(frames, Recorder())
    assert (folder / "1.out").read_text() == "TEXT 1"
    (folder / "1.out").unlink()
    (folder / "3.out").write_text("")
    again = Recorder()
    load(frames, again)
    assert again.keys == ["1", "3"]
    assert (folder / "1.out").read_text() == "TEXT 1"


def test_a_source_that_vanished_is_named(frames):
    Path(frames[3].sources[0]).unlink()
    with pytest.raises(DatasetError, match=r"3\.txt is missing"):
        load(frames, Recorder())


@pytest.fixture
def beside_the_data(monkeypatch):
    monkeypatch.setenv("DEEPFUSE_CACHE", "dataset")


@pytest.mark.usefixtures("beside_the_data")
def test_a_cache_in_the_data_set_is_asked_for_and_moves_with_it(frames, tmp_path):
    load(frames, Recorder())
    assert (tmp_path / "set" / ".deepfuse_cache" / "texts.json").is_file()
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = [Frame(f.key, (f.sources[0].replace("/set/", "/moved/"),)) for f in frames]
    again = Recorder()
    load(moved, again)
    assert again.keys == []


def test_the_cache_is_the_users_and_nothing_is_written_into_the_data_set(
    frames, user_cache, unchanged
):
    root = Path(frames[0].sources[0]).parent
    unchanged(root)
    load(frames, Recorder())
    assert cache_file(frames).is_relative_to(user_cache / "deepfuse_d2")
    assert cache_file(frames).is_file()


def test_the_variable_and_the_key_move_the_cache(frames, tmp_path, monkeypatch):
    root = Path(frames[0].sources[0]).parent
    monkeypatch.setenv("DEEPFUSE_CACHE", str(tmp_path / "one"))
    assert cache_folder(root).is_relative_to(tmp_path / "one")
    load_config("", ["CACHE.FOLDER", str(tmp_path / "two")])
    assert cache_folder(root).is_relative_to(tmp_path / "two")
    load_config("", ["CACHE.FOLDER", "dataset"])
    assert cache_folder(root) == root / ".deepfuse_cache"


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_home() is None
    assert cache_folder("/anywhere") is None


@pytest.mark.usefixtures("beside_the_data")
def test_a_read_only_data_set_is_cached_in_the_users_folder_all_the_same(frames, user_cache):
    root = Path(frames[0].sources[0]).parent
    root.chmod(0o555)
    try:
        folder = cache_folder(root)
        assert folder.is_relative_to(user_cache / "deepfuse_d2")
        load(frames, Recorder())
        again = Recorder()
        load(frames, again)
        assert again.keys == []
        assert not (root / ".deepfuse_cache").exists()
    finally:
        root.chmod(0o755)


def test_without_a_writable_folder_it_parses_and_says_so(frames, user_cache, caplog):
    user_cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(load(frames, Recorder())) == 4
    assert "Set DEEPFUSE_CACHE" in caplog.text


def test_a_cache_that_cannot_be_written_does_not_stop_the_load(frames, monkeypatch, caplog):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(cache_module.os, "replace", full)
    with caplog.at_level(logging.WARNING):
        assert len(load(frames, Recorder())) == 4
    assert "cannot be written" in caplog.text
    assert not list(cache_file(frames).parent.glob("*.tmp"))


def test_callers_at_the_same_time_parse_once(frames):
    lock, keys = threading.Lock(), []

    def parse(frame):
        with lock:
            keys.append(frame.key)
        time.sleep(0.05)
        return frame.key

    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load(frames, parse))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [["0", "1", "2", "3"]] * 4
    assert sorted(keys) == ["0", "1", "2", "3"]


# Scripts of their own, since each process imports the parser's module. They take the cache module
# without the package around it, whose import would cost each process some seconds.
SCRIPT_HEAD = f"""
import multiprocessing, sys, types
for name in ("deepfuse_d2", "deepfuse_d2.data"):
    package = types.ModuleType(name)
    package.__path__ = [{str(REPOSITORY)!r} + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from deepfuse_d2.data.cache import Frame, parse_cached
from deepfuse_d2.errors import DatasetError

def load(parse, name):
    frames = [Frame(str(i), (sys.argv[1],)) for i in range(50)]
    parsed = parse_cached(frames, parse, root=sys.argv[2], name=name, version=1, workers=2)
    return [value for _, value in parsed]
"""


def test_several_processes_give_the_same_in_the_same_order_and_pass_errors_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT_HEAD
        + """
def parse(frame):
    return [frame.key, multiprocessing.parent_process() is not None]

def fail(frame):
    raise DatasetError(f"{frame.key} is damaged")

if __name__ == "__main__":
    assert load(parse, "a") == [[str(i), True] for i in range(50)]
    try:
        load(fail, "b")
    except DatasetError as error:
        assert str(error).startswith("0 is damaged So it is with 49 other files")
    else:
        raise AssertionError("the error got lost")
"""
    )
    run_script(script, tmp_path)


def test_a_script_without_main_guard_still_gets_its_values(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT_HEAD
        + """
def parse(frame):
    return frame.key

assert load(parse, "a") == [str(i) for i in range(50)]
"""
    )
    assert "going on in this one" in run_script(script, tmp_path).stderr


def run_script(script, folder):
    result = subprocess.run(
        [sys.executable, script, script, folder],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def test_slow_frames_are_handed_to_processes_and_fast_ones_are_not(frames, monkeypatch):
    handed = []

    def in_processes(parse, frames, workers):
        handed.append((len(frames), workers))
        yield from map(parse, frames)

    monkeypatch.setattr(cache_module, "_parse_in_processes", in_processes)
    monkeypatch.setattr(cache_module, "_available_cpus", lambda: 4)
    many = [Frame(str(i), frames[0].sources) for i in range(200)]
    assert load(many, Recorder()) == [["text 0"]] * 200
    assert handed == []

    seconds = iter(range(1000))
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: next(seconds))
    assert load(many, Recorder(), version=2) == [["text 0"]] * 200
    assert handed == [(192, 4)]


def test_a_daemonic_process_parses_by_itself(frames, monkeypatch):
    monkeypatch.setattr(
        multiprocessing, "current_process", lambda: type("Worker", (), {"daemon": True})()
    )
    seconds = iter(range(1000))
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(cache_module, "_parse_in_processes", None)
    assert len(load(frames, Recorder())) == 4
