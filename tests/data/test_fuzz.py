"""Annotation files changed at random: a right result or one message, never a crash, a hang or an
empty memory."""

import copy
import json
import math
import os
import resource

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepfuse_d2.data import register_extra
from deepfuse_d2.data.check import check_dataset
from deepfuse_d2.data.mappers.instance_mapper import InstanceMapper
from deepfuse_d2.errors import UserError
from deepfuse_d2.evaluation import COCOInstanceEvaluator
from deepfuse_d2.evaluation.perfect import perfect_output
from tests.data.forms import FORMS

NAME = "my_fuzzed"
# More, and other ones each time: DEEPFUSE_FUZZ_CASES=5000 pytest tests/data/test_fuzz.py
CASES = int(os.environ.get("DEEPFUSE_FUZZ_CASES", "400"))
FIXED = "DEEPFUSE_FUZZ_CASES" not in os.environ

# What wrong exporters and editors put in the place of a value.
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.sampled_from([-1, 0, 1, 1e308, "1", "", [], {}, [[]], [1, 2]]),
    st.sampled_from([{"counts": [1], "size": [1, 1]}, {"counts": "1", "size": [40, 60]}]),
    st.lists(st.floats(-1e3, 1e3), max_size=9),
    st.lists(st.lists(st.integers(-9, 99), max_size=9), max_size=3),
)  # fmt: skip
# (where in the file, as numbers that choose among what is there; what to do; what to put there)
CHANGES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
        st.sampled_from(["replace", "remove", "repeat"]),
        VALUES,
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _limits():
    """Two more gigabytes of memory; the catalogs stay as they were."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """(folder, content) of a COCO file with polygons, and of one with run lengths."""
    found = []
    for form in ("COCO, polygons", "COCO, run lengths as a list"):
        folder = tmp_path_factory.mktemp("fuzz")
        FORMS[form](folder)
        found.append((folder, json.loads((folder / "x.json").read_text())))
    return found


def changed(content, changes):
    content = copy.deepcopy(content)
    for path, action, value in copy.deepcopy(changes):
        place = content
        for number in path[:-1]:
            inner = _child(place, number)
            if not isinstance(inner, (dict, list)) or not inner:
                break
            place = inner
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key = keys[path[-1] % len(keys)]
        if action == "replace":
            place[key] = copy.deepcopy(value)  # may be what an earlier change has changed
        elif action == "remove":
            del place[key]
        elif isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
    return content


def _child(place, number):
    keys = list(place) if isinstance(place, dict) else range(len(place))
    return place[keys[number % len(keys)]] if len(keys) else None


@settings(
    max_examples=CASES, deadline=20_000, derandomize=FIXED, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                           HealthCheck.large_base_example, HealthCheck.data_too_large],
)  # fmt: skip
@given(changes=CHANGES, which=st.integers(0, 1))
def test_a_changed_file_ends_in_a_right_result_or_in_one_message(valid, changes, which):
    folder, content = valid[which]
    (folder / "x.json").write_text(json.dumps(changed(content, changes)))
    entry = {"NAME": NAME, "FORMAT": "coco", "JSON": str(folder / "x.json"),
             "IMAGES": str(folder / "images")}  # fmt: skip
    register_extra([entry])
    try:
        records = DatasetCatalog.get(NAME)
    except UserError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert len(message) < 2000
        return
    check_dataset(NAME, workers=1)
    mapper = InstanceMapper([], image_format="BGR", use_masks=False)
    evaluator = COCOInstanceEvaluator(NAME)
    evaluator.reset()
    for record in records:
        if (record["height"], record["width"]) != (40, 60):
            continue  # refused by the mapper, as the image says otherwise
        sample = mapper(record)
        if "instances" in sample:
            assert np.isfinite(sample["instances"].gt_boxes.tensor.numpy()).all()
        evaluator.process([record], [perfect_output(record)])
    for task, scores in evaluator.evaluate().items():
        assert math.isnan(scores["AP"]) or scores["AP"] > 99.9, (task, scores)


@settings(max_examples=CASES, deadline=20_000, derandomize=FIXED, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(place=st.floats(0, 1), cut=st.binary(max_size=6), length=st.integers(0, 60))
def test_a_damaged_file_ends_in_a_right_result_or_in_one_message(valid, place, cut, length):
    folder, content = valid[0]
    text = json.dumps(content).encode()
    at = int(place * len(text))
    (folder / "x.json").write_bytes(text[:at] + cut + text[at + length :])
    register_extra([{"NAME": NAME, "FORMAT": "coco", "JSON": str(folder / "x.json"),
                     "IMAGES": str(folder / "images")}])  # fmt: skip
    try:
        records = DatasetCatalog.get(NAME)
    except UserError as error:
        records = [str(error)]
    assert records
    assert records[0]
