"""Data sets of an evaluation: split lists of one's own take the place of the data's."""

import pytest

from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.data_sets import read_data


def test_split_lists_choose_the_cases(tmp_path):
    write_folder(tmp_path / "hearts", count=4, seed=0, targets=["left ventricle"], size=(64, 64))
    cases = read_cases(tmp_path / "hearts", "folder")
    names = [case.name for case in cases]
    lists = {cases[0].dataset: {"train": names[1:], "validation": [], "test": names[:1]}}
    data, without = read_data("hearts", tmp_path / "hearts", "folder", "test", splits=Splits("by hand", 0, lists))
    assert [case.name for case in data.cases] == names[:1] and without == 0
    short = Splits("by hand", 0, {cases[0].dataset: {"train": names[1:], "validation": [], "test": []}})
    with pytest.raises(ValueError, match="no split names"):
        read_data("hearts", tmp_path / "hearts", "folder", "test", splits=short)
