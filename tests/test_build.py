"""Data sets to Parquet and back: equal samples, splits, configs, interrupted builds, and what is refused."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import ccsam_hf.data.build as building
from ccsam_hf.data.build import Download, build, collect, configs_of, load_built
from ccsam_hf.data.readers import list_cases, read_cases
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.data.splits import divide

DIVIDE = partial(divide, seed=0)


def write_busi(directory: Path, count: int = 20) -> Path:
    """A BUSI release of simulated lesions, every third image normal."""
    for i in range(count):
        lesion = simulate("breast lesion", i, (64, 72))
        kind = ("benign", "malignant", "normal")[i % 3]
        (directory / kind).mkdir(parents=True, exist_ok=True)
        mask = lesion.mask.astype(np.uint8) * (0 if kind == "normal" else 255)
        Image.fromarray(lesion.image).save(directory / kind / f"{kind} ({i}).png")
        Image.fromarray(mask).save(directory / kind / f"{kind} ({i})_mask.png")
    return directory


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("downloads")
    write_busi(directory / "busi")
    write_folder(directory / "own", count=10, seed=3, targets=("thyroid nodule", "left ventricle"), size=(64, 64))
    return directory


@pytest.fixture(scope="module")
def built(downloads, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "set"
    build(sources_of(downloads), output, DIVIDE)
    return output


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def sources_of(downloads: Path) -> list[Download]:
    return [Download("busi", downloads / "busi"), Download("folder", downloads / "own")]


def content_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_built_set_reads_back_sample_by_sample(downloads, built):
    cases, _ = collect(sources_of(downloads))
    expected = {(case.dataset, case.name): case for case in divide(cases).apply(cases)}
    found = read_cases(built, "built")
    assert {(case.dataset, case.release) for case in found} == {("BUSI", "BUSI"), ("own", None)}
    assert len(found) == len(expected) == 30
    for case in found:
        known = expected[case.dataset, case.name]
        assert np.array_equal(case.image, known.image) and np.array_equal(case.mask, known.mask)
        about = ("target", "class_id", "split", "patient_id", "category", "size")
        assert [getattr(case, name) for name in about] == [getattr(known, name) for name in about]
        assert case.spacing_mm == (None if known.spacing_mm is None else pytest.approx(known.spacing_mm))


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_the_same_rows_map_style_and_as_a_stream(built, streaming):
    loaded = load_built(built, "own", streaming=streaming)
    cases = {case.name: case for case in read_cases(built, "built") if case.dataset == "own"}
    rows = [row for split in loaded.values() for row in split]
    assert {row["name"] for row in rows} == set(cases)
    for row in rows:
        case = cases[row["name"]]
        assert row["image"].mode == row["mask"].mode == "L"
        assert np.array_equal(np.asarray(row["image"]), case.image)
        assert np.array_equal(np.asarray(row["mask"]), case.mask.astype(np.uint8) * 255)
        assert row["mask_area"] == case.mask.sum() and (row["height"], row["width"]) == (64, 64)
        assert row["split"] == case.split and row["mm_per_row"] == pytest.approx(case.spacing_mm[0])


def test_configs_are_all_sets_their_groups_and_each_set(built):
    card = (built / "README.md").read_text()
    assert datasets.get_dataset_config_names(str(built)) == ["all", "seen", "BUSI", "own"]
    assert load_built(built).num_rows == {"train": 21, "validation": 3, "test": 6}
    assert load_built(built, "seen", split="test").unique("dataset") == ["BUSI"]
    assert "BUSI" in card and "seen" in card
    counts = {name: {"test": {"breast lesion": 1}} for name in ("UDIAT", "BUSI")}
    groups = {config["config_name"]: config["data_files"] for config in configs_of(counts, (), "0")}
    assert groups["seen"] == [{"split": "test", "path": ["data/BUSI/test-*.parquet"]}]
    assert groups["unseen"] == [{"split": "test", "path": ["data/UDIAT/test-*.parquet"]}]


def test_ones_own_folder_of_a_known_name_stays_ones_own(tmp_path):
    write_folder(tmp_path / "DDTI", count=10, seed=3, targets=("thyroid nodule",), size=(64, 64))
    record = build([Download("folder", tmp_path / "DDTI")], tmp_path / "set", DIVIDE)
    assert record["own"] == ["DDTI"]
    assert {split: sum(of_split.values()) for split, of_split in record["counts"]["DDTI"].items()} == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }
    card = (tmp_path / "set" / "README.md").read_text()
    assert "config_name: DDTI" in card and "config_name: unseen" not in card
    assert "the licence of DDTI is for its owner to state" in card and "Digital Database" not in card
    assert {case.release for case in read_cases(tmp_path / "set", "built")} == {None}


def test_another_set_under_the_same_name_is_not_taken_from_the_cache(downloads, tmp_path):
    names = []
    for number in range(2):
        output = tmp_path / str(number) / "data"
        build(sources_of(downloads)[:1], output, partial(divide, seed=number))
        names.append(load_built(output, split="train")["name"])
        assert names[-1] == [case.name for case in read_cases(output, "built") if case.split == "train"]
    assert len(names[0]) == len(names[1]) and names[0] != names[1]


def test_an_archive_is_unpacked_and_gives_the_same_files(downloads, built, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "own"), "zip", downloads, "own")
    busi, own = sources_of(downloads)
    build([busi, replace(own, path=Path(archive))], tmp_path / "set", DIVIDE)
    parquet = {name: content for name, content in content_of(built).items() if name.endswith("parquet")}
    found = content_of(tmp_path / "set")
    assert {name: found[name] for name in parquet} == parquet
    assert not list(tmp_path.glob(".set*"))  # what was unpacked is gone


def test_nothing_that_is_published_tells_where_the_downloads_lay(downloads, tmp_path):
    shutil.copytree(downloads / "busi", tmp_path / "busi")
    whole, image = np.zeros((465, 555), np.uint8), np.zeros((416, 416), np.uint8)
    for name, pixels in (("benign (4)", image), ("benign (4)_mask", image), ("benign (4)_mask_1", whole)):
        Image.fromarray(pixels).save(tmp_path / "busi" / "benign" / f"{name}.png")
    record = build([Download("busi", tmp_path / "busi")], tmp_path / "set", DIVIDE)
    assert record["sources"] == ["busi=busi"]
    assert record["notes"][0].startswith("busi: busi/benign/benign (4)_mask_1.png has size (465, 555)")
    for name in ("README.md", "build.json", "splits.json"):
        assert str(tmp_path) not in (tmp_path / "set" / name).read_text()


def test_a_build_that_starts_again_does_not_look_complete(downloads, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(building.os, "replace", renames_files_only)
        with pytest.raises(Killed):
            build(sources_of(downloads), tmp_path / "set", DIVIDE)
    assert (tmp_path / ".set.partial" / "build.json").is_file()  # it was all there
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Killed):
            build(sources_of(downloads)[:1], tmp_path / "set", DIVIDE)
    with pytest.raises(ValueError, match="has no build.json"):
        load_built(tmp_path / ".set.partial")


def renames_files_only(source, target):
    """Stands for a signal just before the finished directory is renamed."""
    if Path(source).is_dir():
        raise Killed
    Path(source).rename(target)


class Killed(BaseException):
    """Stands for a signal: no handler for errors catches it."""


def stop_after(monkeypatch, number: int) -> None:
    """Let the build die in its `number`-th shard, after rows were written into it."""
    seen = []
    real = building.rows_of

    def rows_of(cases):
        seen.append(len(cases))
        yield from list(real(cases))[: len(cases) // 2]
        if len(seen) == number:
            raise Killed
        yield from list(real(cases))[len(cases) // 2 :]

    monkeypatch.setattr(building, "rows_of", rows_of)


@pytest.mark.parametrize("number", [1, 3, 6])
def test_an_interrupted_build_leaves_nothing_that_loads_and_resumes(downloads, built, tmp_path, monkeypatch, number):
    output = tmp_path / "set"
    with monkeypatch.context() as patch:
        stop_after(patch, number)
        with pytest.raises(Killed):
            build(sources_of(downloads), output, DIVIDE)
    assert not output.exists()
    partial_set = tmp_path / ".set.partial"
    with pytest.raises(ValueError, match="has no build.json"):
        load_built(partial_set)
    finished = {path: path.stat().st_ino for path in partial_set.glob("data/*/*.parquet")}
    assert len(finished) == number - 1
    build(sources_of(downloads), output, DIVIDE)
    assert content_of(output) == content_of(built)
    kept = {output / path.relative_to(partial_set): inode for path, inode in finished.items()}
    assert {path: path.stat().st_ino for path in kept} == kept  # not written again
    assert not partial_set.exists()


def test_a_build_with_other_splits_or_files_starts_again(downloads, tmp_path, monkeypatch):
    shutil.copytree(downloads, tmp_path / "downloads")
    sources = sources_of(tmp_path / "downloads")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Killed):
            build(sources, tmp_path / "set", DIVIDE)
    changed = tmp_path / "downloads" / "busi" / "benign" / "benign (0).png"
    Image.fromarray(np.full((64, 72), 7, np.uint8)).save(changed)
    build(sources, tmp_path / "set", DIVIDE)
    found = {case.name: case for case in read_cases(tmp_path / "set", "built")}
    assert (found["benign (0)"].image == 7).all()


def test_what_cannot_be_used_is_counted_before_anything_is_written(downloads, tmp_path):
    shutil.copytree(downloads, tmp_path / "downloads")
    busi = tmp_path / "downloads" / "busi"
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(busi / "benign" / "benign (3)_mask.png")
    (busi / "malignant" / "malignant (1).png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="2 of 30 cases cannot be used, the first: .*ccsam-hf data audit"):
        build(sources_of(tmp_path / "downloads"), tmp_path / "set", DIVIDE)
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".set.partial/data/*/*"))
    removed = {"BUSI": {"benign (3)": "mask of another size", "malignant (1)": "unreadable"}}
    record = build(sources_of(tmp_path / "downloads"), tmp_path / "set", lambda cases: divide(cases).without(removed))
    assert sum(sum(targets.values()) for targets in record["counts"]["BUSI"].values()) == 18
    assert json.loads((tmp_path / "set" / "splits.json").read_text())["removed"] == removed
    assert "mask of another size" in (tmp_path / "set" / "README.md").read_text()


def test_wrong_sources_and_outputs_are_refused(downloads, built, tmp_path):
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        build(sources_of(downloads), built, DIVIDE)
    busi = Download("busi", downloads / "busi")
    shutil.copytree(downloads / "busi", tmp_path / "copy")
    with pytest.raises(ValueError, match="both hold BUSI; expected every data set once"):
        build([busi, Download("busi", tmp_path / "copy")], tmp_path / "set", DIVIDE)
    with pytest.raises(ValueError, match="source 'busi' is not LAYOUT=PATH"):
        Download.parse("busi")
    with pytest.raises(ValueError, match="accepted layouts are folder"):
        Download.parse("jpeg=data")
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; expected a directory here"):
        collect([Download("busi", tmp_path / "file.zip")])
    with pytest.raises(ValueError, match="has no build.json"):
        list_cases(downloads, "built")
