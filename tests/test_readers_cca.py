"""The carotid set in its two folders: pairs, and which recordings are of one person."""

import numpy as np
import pytest

from ccsam_hf.data.readers import cca
from layouts_of_images import folder_cases

FIRST, SECOND, THIRD = "202201121748100022VAS", "202201121752220024VAS", "202201121805150026VAS"


def write_cca(directory, names):
    return folder_cases(
        directory / "US images",
        directory / "Expert mask images",
        [f"{name}.png" for name in names],
        "thyroid nodule",  # stands for the artery
        "CCA",
    )


def test_images_and_masks_are_read_from_their_folders_or_a_folder_around_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cca, "IMAGES_OF_PERSON", 3)
    names = [f"{FIRST}_slice_1069", f"{FIRST}_slice_1080", f"{SECOND}_slice_7", *(f"{THIRD}_slice_{n}" for n in "123")]
    truths = write_cca(tmp_path / "Common Carotid Artery Ultrasound Images", names)
    cases = cca.read(tmp_path, notes := [])
    assert cases == cca.read(tmp_path / "Common Carotid Artery Ultrasound Images", notes) and notes == []
    known = [(case.name, case.target, case.dataset, case.release) for case in cases]
    assert known == [(truth.name, "carotid artery", "CCA", "CCA") for truth in truths]
    assert [case.patient_id for case in cases] == [FIRST] * 3 + [THIRD] * 3
    for case, truth in zip(cases, truths, strict=True):
        case.check()
        assert np.array_equal(case.image, truth.image) and np.array_equal(case.mask, truth.mask)


def test_recordings_that_do_not_add_up_are_patients_of_their_own(tmp_path):
    write_cca(tmp_path, [f"{FIRST}_slice_1", f"{SECOND}_slice_1", "frame"])
    cases = cca.read(tmp_path, notes := [])
    assert {case.name: case.patient_id for case in cases} == {
        f"{FIRST}_slice_1": FIRST,
        f"{SECOND}_slice_1": SECOND,
        "frame": None,
    }
    assert "1 image(s) are not named" in notes[0] and "each recording counts as a patient" in notes[1]


def test_a_person_ends_where_a_hundred_images_are_complete():
    counts = {FIRST: 90, SECOND: 10, THIRD: 100}
    recordings = [name for name, count in counts.items() for _ in range(count)]
    assert cca.people_of(reversed(recordings)) == {FIRST: FIRST, SECOND: FIRST, THIRD: THIRD}
    assert cca.people_of(recordings[1:]) is None and cca.people_of(recordings[:-1]) is None


def test_a_directory_without_the_folders_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no folder 'US images'"):
        cca.read(tmp_path, [])
