"""A value that is not accepted names the accepted and the nearest; an absent library names the extra."""

import sys

import pytest

from ccsam_hf.checks import check_choice, import_extra


def test_a_choice_is_returned_or_refused_with_the_nearest():
    assert check_choice("form", "phrase", ("phrase", "description")) == "phrase"
    with pytest.raises(ValueError, match=r"form='phrse' is not one of phrase, description; did you mean \"phrase\"\?"):
        check_choice("form", "phrse", ("phrase", "description"))
    with pytest.raises(ValueError, match="is not one of phrase, description$"):
        check_choice("form", "x", ("phrase", "description"))


def test_an_absent_library_names_the_extra_and_a_present_one_is_returned(monkeypatch):
    assert import_extra("json", "data", "reading") is sys.modules["json"]
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r'writing DICOM needs highdicom: pip install "ccsam-hf\[data\]"'):
        import_extra("highdicom.seg", "data", "writing DICOM")
