"""Data sets changed at random: a right result or one message, never a crash, a hang or an empty
memory. ``python -m benchmarks.data_fuzz`` runs as many more cases as one likes."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data import fuzzing
from tests.data.forms import FORMS, LABEL_FORMS

QUICK = {
    "deadline": None, "derandomize": True, "database": None,
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip
BY_FILES = {**FORMS, **LABEL_FORMS}
JSON_FORMS = ["COCO, polygons", "COCO, run lengths as a list"]


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """(folder, content) of a COCO file with polygons, and of one with run lengths."""
    found = []
    for form in JSON_FORMS:
        folder = tmp_path_factory.mktemp("fuzz")
        entry = FORMS[form](folder)
        found.append((folder, entry, json.loads((folder / "x.json").read_text())))
    return found


@pytest.mark.parametrize("masks", [True, False])
def test_what_is_not_changed_goes_all_the_way(valid, masks):
    assert fuzzing.walk(valid[0][1], masks=masks) == ""


@settings(max_examples=400, **QUICK)
@given(changes=fuzzing.CHANGES, which=st.integers(0, 1))
def test_a_changed_file_is_read_right_or_refused_in_one_message(valid, changes, which):
    folder, entry, content = valid[which]
    fuzzing.write_json(folder, fuzzing.changed(content, changes))
    fuzzing.load_and_evaluate(entry)


@settings(max_examples=40, **QUICK)
@given(changes=fuzzing.CHANGES, which=st.integers(0, 1), masks=st.booleans())
def test_a_changed_file_is_trained_with_or_refused_in_one_message(valid, changes, which, masks):
    folder, entry, content = valid[which]
    fuzzing.write_json(folder, fuzzing.changed(content, changes))
    fuzzing.walk(entry, masks=masks)


@settings(max_examples=40, **QUICK)
@given(
    form=st.sampled_from(sorted(BY_FILES)), damages=st.lists(fuzzing.DAMAGE, min_size=1, max_size=3)
)
def test_damaged_files_are_trained_with_or_refused_in_one_message(form, damages):
    with fuzzing.changed_copy(BY_FILES[form]) as (folder, entry):
        fuzzing.damage(folder, damages)
        fuzzing.walk(entry)
