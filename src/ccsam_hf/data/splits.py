"""Cases -> training, validation and test, by patient, as the paper splits its data sets (`divide`, `Splits`).

Source: CC-SAM paper, Section 4.1. What a release fixes stays as it is (TN3K and TG3K of TRFE, the lists of US30K, the
test patients of CAMUS); the rest is drawn from a seed by a rule of its data set:

| data set | rule |
|---|---|
| TN3K, TG3K | the release's lists |
| BUSI | 7:1:2 at random, equal shares of benign, malignant and normal |
| CAMUS, MMOTU | the release's test part; a tenth of the others validates |
| DDTI, UDIAT, HMC-QU | unseen: all of it tests |
| any other, and one's own data of any name | 7:1:2 at random |

Which data set it is, its reader says (`Case.release`): one's own folder called DDTI is divided 7:1:2.

Images that are drawn stay together by patient wherever patients are known, and so do all objects of one image. A draw
depends on the seed and on the names alone, and not on the order or on the version of a library.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..files import write_json
from .cases import SPLITS, Case

SEEN = ("TN3K", "TG3K", "BUSI", "CAMUS")
UNSEEN = ("DDTI", "UDIAT", "HMC-QU")
GROUPS = {"seen": SEEN, "unseen": UNSEEN}  # as SAMUS and the paper name them

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
SHARES_WITHOUT_TEST = {"train": 0.9, "validation": 0.1}
SHARES_OF_RELEASE = {
    "TN3K": SHARES_WITHOUT_TEST,
    "TG3K": SHARES_WITHOUT_TEST,
    "CAMUS": SHARES_WITHOUT_TEST,
    "MMOTU": SHARES_WITHOUT_TEST,
    **{name: {"test": 1.0} for name in UNSEEN},
}


@dataclass
class Splits:
    """Which image of which data set lies in which split.

    Attributes:
        rule: in words, how the lists came about.
        seed: of what was drawn.
        lists: data set -> split -> names of images, sorted.
        removed: data set -> name -> why the image is left out, for instance by an audit.
    """

    rule: str
    seed: int
    lists: dict[str, dict[str, list[str]]]
    removed: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        self.places = {}
        for dataset, lists in self.lists.items():
            for split, names in lists.items():
                for name in names:
                    if self.places.setdefault((dataset, name), split) != split:
                        raise ValueError(
                            f"{dataset}/{name} is in {self.places[dataset, name]} and in {split}; expected one split "
                            "for every image: remove it from one list"
                        )

    def of(self, case: Case) -> str | None:
        """The split of a case; None where its image was removed.

        Raises:
            ValueError: no list names the image.
        """
        if case.name in self.removed.get(case.dataset, {}):
            return None
        if (case.dataset, case.name) not in self.places:
            raise ValueError(
                f"no split names {case.dataset}/{case.name}; expected every image in a list or among the removed "
                "ones: make the lists again from these data"
            )
        return self.places[case.dataset, case.name]

    def apply(self, cases: Sequence[Case]) -> list[Case]:
        """The cases with their split set, without removed ones; ValueError as `of`."""
        placed = [(case, self.of(case)) for case in cases]
        return [replace(case, split=split) for case, split in placed if split is not None]

    def without(self, removed: dict[str, dict[str, str]]) -> "Splits":
        """A copy in which further images are removed.

        Args:
            removed: data set -> name -> reason.
        """
        merged = {name: dict(reasons) for name, reasons in self.removed.items()}
        for dataset, reasons in removed.items():
            merged.setdefault(dataset, {}).update(reasons)
        lists = {
            dataset: {
                split: [name for name in names if name not in merged.get(dataset, {})]
                for split, names in of_dataset.items()
            }
            for dataset, of_dataset in self.lists.items()
        }
        return Splits(self.rule, self.seed, lists, merged)

    def save(self, path: str | Path) -> None:
        """Write the lists as JSON: complete or not at all."""
        write_json(path, asdict(self), indent=1)

    @classmethod
    def load(cls, path: str | Path) -> "Splits":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not such a file, or an image stands in two splits.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; expected a splits.json of data build or data audit --fix")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            splits = cls(**content)
            known = all(set(lists) <= set(SPLITS) for lists in splits.lists.values())
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read as split lists ({error})") from error
        if not known:
            raise ValueError(f"{path} has other splits than {', '.join(SPLITS)}")
        return splits


def divide(cases: Sequence[Case], seed: int = 0) -> Splits:
    """Split cases by the rules above.

    Args:
        cases: of any number of data sets.
        seed: of what is drawn.

    Raises:
        ValueError: a release puts one image into different splits.
    """
    lists = {dataset: empty_lists() for dataset in sorted({case.dataset for case in cases})}
    for dataset, of_dataset in lists.items():
        own = [case for case in cases if case.dataset == dataset]
        fixed, open_units = units_of(own)
        for name, split in fixed.items():
            of_dataset[split].append(name)
        release = release_of(own)
        shares = SHARES_OF_RELEASE.get(release, SHARES)
        if release in ("CAMUS", "MMOTU") and not any(split == "test" for split in fixed.values()):
            shares = SHARES
        units = in_strata(open_units, seed, dataset)
        for unit, split in zip(units, in_shares(len(units), shares), strict=True):
            of_dataset[split] += open_units[unit][1]
        for names in of_dataset.values():
            names.sort()
    return Splits("the release's lists where it has them, else by the rule of the data set", seed, lists)


def divide_in_folds(cases: Sequence[Case], num_folds: int, fold: int, seed: int = 0) -> Splits:
    """Cross-validation: fold `fold` tests, the next one validates, the others train. The release's lists are ignored.

    Args:
        cases: of any number of data sets.
        num_folds: at least 3.
        fold: from 0.
        seed: of the draw, which is the same for all folds: each unit tests in exactly one.

    Raises:
        ValueError: a wrong number, or a data set with fewer patients (or images without one) than folds.
    """
    if num_folds < 3 or not 0 <= fold < num_folds:
        raise ValueError(
            f"fold={fold} of num_folds={num_folds}; expected at least 3 folds, and fold from 0 below that"
        )
    lists = {dataset: empty_lists() for dataset in sorted({case.dataset for case in cases})}
    for dataset, of_dataset in lists.items():
        own = [replace(case, split=None) for case in cases if case.dataset == dataset]
        _, units = units_of(own)
        if len(units) < num_folds:
            raise ValueError(f"{dataset} has {len(units)} patients or images; expected at least num_folds={num_folds}")
        for place, unit in enumerate(in_strata(units, seed, dataset)):
            behind = (place - fold) % num_folds
            split = "test" if behind == 0 else "validation" if behind == 1 else "train"
            of_dataset[split] += units[unit][1]
        for names in of_dataset.values():
            names.sort()
    return Splits(f"fold {fold} of {num_folds} tests, the next validates", seed, lists)


def release_of(cases: Sequence[Case]) -> str | None:
    """The release that all cases of one data set are from; None for one's own data.

    Raises:
        ValueError: some are from a release and others are not, or from another one.
    """
    releases = {case.release for case in cases}
    if len(releases) > 1:
        raise ValueError(
            f"{cases[0].dataset!r} holds cases of {', '.join(sorted(map(str, releases)))} (None: one's own data); "
            "expected one source for a data set: give one's own folder another name"
        )
    return releases.pop()


def empty_lists() -> dict[str, list[str]]:
    """No name in any split."""
    return {split: [] for split in SPLITS}


def units_of(cases: Sequence[Case]) -> tuple[dict[str, str], dict[str, tuple[str, list[str]]]]:
    """What stays together in one data set: a patient's images, or one image.

    Returns:
        name -> split of images that the release places; and unit -> (category, names) of those that it leaves open.
        A patient of whom the release places some images takes the others along; where it places them in several splits
        they stay there, and the audit reports the patient.
    """
    images: dict[str, Case] = {}
    for case in cases:
        known = images.setdefault(case.name, case)
        if (known.split, known.patient_id) != (case.split, case.patient_id):
            raise ValueError(
                f"{case.dataset}/{case.name} is of patient {known.patient_id} in {known.split} and of patient "
                f"{case.patient_id} in {case.split}; expected one patient and one split for all objects of an image"
            )
    units: dict[str, list[Case]] = defaultdict(list)
    for name, case in images.items():
        units[f"image {name}" if case.patient_id is None else f"patient {case.patient_id}"].append(case)
    fixed, open_units = {}, {}
    for unit, members in units.items():
        splits = sorted({case.split for case in members if case.split is not None})
        if splits:
            fixed |= {case.name: case.split or splits[0] for case in members}
        else:
            open_units[unit] = (members[0].category or "", [case.name for case in members])
    return fixed, open_units


def in_strata(units: dict[str, tuple[str, list[str]]], seed: int, dataset: str) -> list[str]:
    """The units one category after the other, within each in an order drawn from the seed."""

    def drawn(unit: str) -> str:
        return hashlib.sha256(f"{seed}/{dataset}/{unit}".encode()).hexdigest()

    return sorted(units, key=lambda unit: (units[unit][0], drawn(unit)))


def in_shares(count: int, shares: dict[str, float]) -> list[str]:
    """A split for each of `count` units: the next one goes where most is missing to the share.

    Any stretch of the list, such as a category, has the shares as nearly as its length allows.
    """
    given = dict.fromkeys(shares, 0)
    splits = []
    for number in range(1, count + 1):
        split = max(shares, key=lambda name: shares[name] * number - given[name])
        given[split] += 1
        splits.append(split)
    return splits
