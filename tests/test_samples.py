"""Samples for training: equal to the processor's inputs, and the same however they are loaded."""

import logging
from dataclasses import dataclass, replace

import datasets
import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import DataLoader, Subset

from ccsam_hf import CCSamImageProcessor, CCSamProcessor
from ccsam_hf.data.augmentation import SAMUS_AUGMENTATION
from ccsam_hf.data.cases import Case
from ccsam_hf.data.prompts import FIXED_PROMPTS, PromptSampler, fixed_click, tight_box
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.rows import features, rows_of
from ccsam_hf.data.samples import Samples, StreamedSamples
from ccsam_hf.data.simulator import simulate

TARGETS = ("breast lesion", "thyroid nodule", "left ventricle")
SIZES = ((256, 256), (180, 240), (300, 280))


@dataclass(frozen=True)
class Pixels:
    """A pixel source in memory, told apart by its key."""

    key: tuple
    values: np.ndarray

    paths = ()

    @property
    def size(self):
        return self.values.shape

    def read(self):
        return self.values


def case_of(index: int) -> Case:
    target, size = TARGETS[index % 3], SIZES[index % 3]
    simulated = simulate(target, index, size)
    image, mask = Pixels((index, 0), simulated.image), Pixels((index, 1), simulated.mask)
    return Case(f"{index:03d}", target, image, mask, dataset="SIM", split="train")


def with_mask(case: Case, mask: np.ndarray) -> Case:
    return replace(case, mask_source=Pixels((case.name, "other"), mask))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case_of(index) for index in range(9)]


@pytest.fixture(scope="module")
def local(cases) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows_of(cases)), features=features())


@pytest.fixture(scope="module")
def files(local, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("parquet")
    paths = [str(folder / f"train-{i}.parquet") for i in range(3)]
    for i, path in enumerate(paths):
        local.shard(3, i).to_parquet(path)
    return paths


@pytest.fixture
def stream(files) -> datasets.IterableDataset:
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def by_name(samples) -> dict[str, dict]:
    return {sample["name"]: sample for sample in samples}


def loaded(source, **settings) -> dict[str, dict]:
    """Samples from a loader, without their batch axis."""
    return by_name(DataLoader(source, batch_size=None, **settings))


def assert_same(first: dict[str, dict], second: dict[str, dict]) -> None:
    assert first.keys() == second.keys()
    for name, sample in first.items():
        assert sample.keys() == second[name].keys()
        for key, value in sample.items():
            is_equal = torch.equal(value, second[name][key]) if torch.is_tensor(value) else value == second[name][key]
            assert is_equal, f"{name}: {key}"


def random_samples(source, **settings) -> Samples:
    return Samples(source, PromptSampler(click_set=0.5, fixed_click=0), SAMUS_AUGMENTATION, seed=7, **settings)


def test_without_augmentation_inputs_are_those_of_the_processor(cases):
    processor = CCSamProcessor(CCSamImageProcessor())
    for case, sample in zip(cases, Samples(cases, FIXED_PROMPTS), strict=True):
        inputs = processor(case.image, segmentation_maps=case.mask)
        assert torch.equal(sample["pixel_values"], inputs["pixel_values"][0])
        assert torch.equal(sample["labels"], inputs["labels"][0])


def test_prompts_are_those_of_the_resized_mask(cases):
    for sample in Samples(cases, FIXED_PROMPTS):
        mask = sample["labels"][0].bool().numpy()
        assert sample["input_points"].tolist() == [[fixed_click(mask).tolist()]]
        assert sample["input_labels"].tolist() == [[1]] and sample["input_labels"].dtype == torch.int64
        assert sample["input_boxes"].tolist() == [tight_box(mask).tolist()]


def test_with_augmentation_prompts_lie_on_the_moved_mask(cases):
    samples = random_samples(cases)
    for epoch in range(3):
        samples.set_epoch(epoch)
        for sample in samples:
            real = sample["input_labels"][0] >= 0
            x, y = sample["input_points"][0, real].long().T
            assert torch.equal(sample["labels"][0, y, x].long(), sample["input_labels"][0, real])
            assert set(sample["labels"].unique().tolist()) == {0, 1}
            pixels = sample["pixel_values"]
            assert 0 <= pixels.min() and pixels.max() <= 1 and torch.equal(pixels[0], pixels[2])


def test_samples_of_a_loader_train_the_model(cases, tiny_model):
    batch = next(iter(DataLoader(random_samples(cases), batch_size=4)))
    shapes = {name: tuple(value.shape) for name, value in batch.items() if torch.is_tensor(value)}
    assert shapes == {
        "pixel_values": (4, 3, 256, 256),
        "labels": (4, 1, 256, 256),
        "input_points": (4, 1, 10, 2),
        "input_labels": (4, 1, 10),
        "input_boxes": (4, 1, 4),
    }
    assert batch["name"] == ["000", "001", "002", "003"] and batch["dataset"] == ["SIM"] * 4
    assert batch["target"] == [TARGETS[index % 3] for index in range(4)]
    output = tiny_model(**{name: batch[name] for name in shapes})
    output.loss.backward()
    assert torch.isfinite(output.loss)


def test_parts_that_are_not_drawn_are_padded_or_absent(cases):
    texts = {"random_click": 0, "fixed_click": 0, "tight_box": 0, "jittered_box": 0, "text": 1}
    sample = Samples(cases, PromptSampler(**texts))[1]
    assert sample["text"] == "thyroid nodule" and not {"input_points", "input_boxes"} & sample.keys()
    sparse = PromptSampler(random_click=0, fixed_click=0, click_set=0.5, num_positive=2, num_negative=1, text=0.5)
    drawn = [sample for epoch in range(3) for sample in at_epoch(Samples(cases, sparse), epoch)]
    assert {sample["text"] for sample in drawn} == {"", *TARGETS}
    assert {tuple(sample["input_labels"][0].tolist()) for sample in drawn} == {(1, 1, 0), (-10, -10, -10)}
    assert all((sample["input_points"] == -10).all() for sample in drawn if -10 in sample["input_labels"])


def at_epoch(samples: Samples, epoch: int) -> list[dict]:
    samples.set_epoch(epoch)
    return list(samples)


def test_boxes_for_some_samples_only_are_refused(cases):
    with pytest.raises(ValueError, match="draws boxes with probability 0.5; expected 0 or 1"):
        Samples(cases, PromptSampler(jittered_box=0))


def test_a_sample_is_the_same_in_every_order_and_for_any_number_of_workers(cases):
    samples = random_samples(cases)
    alone = by_name(samples)
    assert_same(alone, by_name(samples[index] for index in reversed(range(len(samples)))))
    assert_same(alone, loaded(samples, shuffle=True, num_workers=2))
    half = loaded(Subset(samples, range(0, 9, 2))), loaded(Subset(samples, range(1, 9, 2)))  # as two ranks take them
    assert_same(alone, half[0] | half[1])
    torch.manual_seed(5)
    np.random.seed(5)
    assert_same(alone, by_name(samples))


def test_epoch_and_seed_change_what_is_drawn_and_an_epoch_can_be_repeated(cases):
    samples = random_samples(cases)
    first, second = by_name(at_epoch(samples, 0)), by_name(at_epoch(samples, 1))
    other_seed = by_name(Samples(cases, samples.prompts, SAMUS_AUGMENTATION, seed=8))
    for changed in (second, other_seed):
        assert not any(torch.equal(first[name]["input_points"], changed[name]["input_points"]) for name in first)
    assert_same(first, by_name(at_epoch(samples, 0)))


def test_workers_that_live_on_see_the_epoch(cases):
    samples = random_samples(cases)
    loader = DataLoader(samples, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        samples.set_epoch(epoch)
        through_workers = by_name(loader)
        assert_same(by_name(samples), through_workers)


def test_local_and_streamed_rows_give_the_samples_of_their_cases(cases, local, stream):
    expected = by_name(random_samples(cases))
    assert_same(expected, by_name(random_samples(local)))
    streamed = StreamedSamples(stream, random_samples(cases).prompts, SAMUS_AUGMENTATION, seed=7)
    assert_same(expected, by_name(streamed))
    assert_same(expected, loaded(streamed, num_workers=2))


def test_a_stream_is_split_between_processes_and_their_workers_without_loss(cases, stream):
    names = []
    for rank in range(3):
        part = StreamedSamples(split_dataset_by_node(stream, rank, 3), FIXED_PROMPTS)
        names += [sample["name"] for sample in DataLoader(part, batch_size=None, num_workers=1)]
    assert sorted(names) == [case.name for case in cases]


def test_a_stream_is_shuffled_anew_in_each_epoch(local):
    samples = StreamedSamples(local.to_iterable_dataset().shuffle(seed=0, buffer_size=9), FIXED_PROMPTS)
    orders = [[sample["name"] for sample in at_epoch(samples, epoch)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_rows_without_an_object_are_left_out_and_counted(cases, caplog):
    empty = with_mask(cases[1], np.zeros(SIZES[1], dtype=bool))
    rows = datasets.Dataset.from_list(list(rows_of([cases[0], empty, cases[2]])), features=features())
    with caplog.at_level(logging.WARNING):
        samples = Samples(rows)
    assert [sample["name"] for sample in samples] == ["000", "002"] and samples.indices.tolist() == [0, 2]
    assert "1 of 3 samples have no object" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(list(StreamedSamples(rows.to_iterable_dataset()))) == 2
    assert "1 samples have no object" in caplog.text


def test_objects_without_a_pixel_at_the_input_size_are_left_out_or_refused(cases, caplog):
    speck = np.zeros(SIZES[2], dtype=bool)
    speck[3, 0] = True  # no centre of one of 256 rows lies on row 3 of 300
    assert not CCSamImageProcessor()(cases[2].image, segmentation_maps=speck)["labels"].any()
    mixed = [cases[0], with_mask(cases[2], speck)]
    for source in (mixed, datasets.Dataset.from_list(list(rows_of(mixed)), features=features())):
        samples = Samples(source)
        assert len(samples) == 2
        with pytest.raises(
            ValueError, match=r"SIM/002 \(left ventricle\): no pixel of the mask \(1 at \(300, 280\)\)"
        ):
            samples[1]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert [sample["name"] for sample in Samples(source, check_masks=True)] == ["000"]
        assert "1 of 2 samples have no object" in caplog.text


def test_sources_that_cannot_be_used_are_refused(cases, local, stream):
    with pytest.raises(ValueError, match="no mask, target; expected image, mask, name, target, dataset"):
        Samples(local.remove_columns(["mask", "target"]))
    with pytest.raises(ValueError, match="no dataset; expected"):
        StreamedSamples(stream.remove_columns("dataset"))
    empty = with_mask(cases[0], np.zeros(SIZES[0], dtype=bool))
    with pytest.raises(ValueError, match="none of 1 samples has an object"):
        Samples([empty], check_masks=True)
    with pytest.raises(ValueError, match=r"SIM/000 .*mask of shape \(180, 240\) and image of \(256, 256\)"):
        Samples([with_mask(cases[0], cases[1].mask)])[0]


def test_colour_is_turned_to_grey_as_cases_do(cases, local):
    def to_colour(row):
        return {"image": Image.merge("RGB", [row["image"]] * 3)}

    colour = local.map(to_colour, features=features())
    assert_same(by_name(Samples(cases, FIXED_PROMPTS)), by_name(Samples(colour, FIXED_PROMPTS)))


def test_real_cases_of_busi_make_samples(breast_ultrasound):
    samples = Samples(read_cases(breast_ultrasound / "BUSI", "busi"), check_masks=True)
    sample = samples[0]
    assert sample["dataset"] == "BUSI" and sample["target"] == "breast lesion"
    assert sample["pixel_values"].shape == (3, 256, 256) and sample["labels"].any()
