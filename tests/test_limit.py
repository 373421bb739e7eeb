"""The sample that `--limit` takes: spread over targets and patients, and the same at every call."""

import numpy as np
import pytest

from ccsam_hf.data.cases import Case
from ccsam_hf.evaluation.limit import sample_cases


class Pixels:
    """A mask with or without an object; counts how often it is read."""

    def __init__(self, has_object: bool = True):
        self.has_object, self.reads = has_object, 0

    def read(self) -> np.ndarray:
        self.reads += 1
        return np.full((2, 2), self.has_object)


def cases(frames_a: int = 9) -> list[Case]:
    """Two targets in every image of three patients, the first of them with many frames."""
    frames = [("a", frames_a), ("b", 2), ("c", 2)]
    return [
        Case(f"{patient}{frame}", target, None, Pixels(), "some", patient_id=patient)
        for patient, count in frames
        for frame in range(count)
        for target in ("left ventricle", "myocardium")
    ]


def test_a_sample_is_spread_over_targets_and_patients():
    chosen, without = sample_cases(cases(), 6)
    assert without == 0 and len(chosen) == 6
    for target in ("left ventricle", "myocardium"):
        assert sorted(case.patient_id for case in chosen if case.target == target) == ["a", "b", "c"]
    assert len({case.name for case in chosen}) == 3  # both targets of an image: it is encoded once
    eight, _ = sample_cases(cases(), 8)
    assert {(case.name, case.target) for case in chosen} < {(case.name, case.target) for case in eight}


def test_a_sample_depends_on_names_alone_and_reads_no_more_masks_than_it_needs():
    every = cases()
    names = [(case.name, case.target) for case in sample_cases(every, 5)[0]]
    assert sum(case.mask_source.reads for case in every) == 5
    assert sorted((case.name, case.target) for case in sample_cases(every[::-1], 5)[0]) == sorted(names)
    assert names == [(case.name, case.target) for case in every if (case.name, case.target) in set(names)]
    other = [(case.name, case.target) for case in sample_cases(every, 5, seed=1)[0]]
    assert other != names


def test_cases_without_an_object_are_counted_and_replaced():
    every = [Case(str(number), "lesion", None, Pixels(number % 2 == 0)) for number in range(20)]
    chosen, without = sample_cases(every, 8)
    assert len(chosen) == 8 and all(int(case.name) % 2 == 0 for case in chosen) and without > 0
    chosen, without = sample_cases(every, 100)
    assert (len(chosen), without) == (10, 10)
    with pytest.raises(ValueError, match="limit is -1; expected at least 1 case, or no limit for all"):
        sample_cases(every, -1)
