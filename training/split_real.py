"""Real data sets -> training/splits/real.json: which image of each is in train, validation and test, by file name.

    python training/split_real.py DIRECTORY [--output training/splits/real.json] [--seed 0]

DIRECTORY holds BUSI (layout busi), CAMUS (camus), HC18, CCA, NERVE (folder) and DDTI (ddti). What belongs together is
never divided: all objects of an image; a patient; in HC18 the images of one number, which are of one examination; in
CCA the recordings of one person (see the reader `cca`); in BUSI, which knows no patients, the images that the
fingerprints of `data audit` find to show one picture. CAMUS keeps its own lists. DDTI and NERVE only test. What is
left is drawn 7:1:2 from the seed, in BUSI with equal shares of its categories. The lists depend on the images and the
seed alone.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ccsam_hf.data.audit.fingerprints import find_matches, fingerprint
from ccsam_hf.data.cases import Case
from ccsam_hf.data.readers import cca, read_cases
from ccsam_hf.data.splits import Splits, divide

LAYOUT_OF_SET = {
    "BUSI": "busi",
    "CAMUS": "camus",
    "HC18": "folder",
    "CCA": "folder",
    "DDTI": "ddti",
    "NERVE": "folder",
}
RULE = (
    "CAMUS: the lists that come with it; DDTI and NERVE: all tests; BUSI, HC18 and CCA: 7:1:2, near-copies, "
    "examinations and people kept together"
)


def main() -> None:
    """Read the data sets, draw the splits and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "splits" / "real.json")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases = []
    for name, layout in LAYOUT_OF_SET.items():
        own = read_cases(options.directory / name, layout)
        if name == "BUSI":
            own = group_by_picture(own)
        elif name == "HC18":
            own = [replace(case, patient_id=case.name.split("_")[0]) for case in own]
        elif name == "CCA":
            people = cca.people_of(case.patient_id for case in own)
            own = [replace(case, patient_id=people[case.patient_id]) for case in own]
        cases += own
    splits = replace(divide(cases, options.seed), rule=RULE)
    splits.save(options.output)
    for line in summary(splits):
        print(line)


def group_by_picture(cases: Sequence[Case]) -> list[Case]:
    """The cases with a `patient_id` shared by all images that hang together by showing one picture."""
    images = {case.name: case for case in sorted(cases, key=lambda case: case.name)}
    names = list(images)
    fingerprints = [fingerprint(case.image) for case in images.values()]
    pairs = [(match.first, match.second) for match in find_matches(fingerprints)]
    first_of_digest = {each.digest: i for i, each in reversed(list(enumerate(fingerprints)))}
    pairs += [(first_of_digest[each.digest], i) for i, each in enumerate(fingerprints)]
    rows, columns = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    groups = connected_components(graph, directed=False)[1]
    group_of = {name: f"picture {groups[i]}" for i, name in enumerate(names)}
    return [replace(case, patient_id=group_of[case.name]) for case in cases]


def summary(splits: Splits) -> list[str]:
    """A line for each data set: how many images are in each split."""
    return [
        f"{dataset}: {', '.join(f'{split} {len(names)}' for split, names in lists.items())}"
        for dataset, lists in splits.lists.items()
    ]


if __name__ == "__main__":
    main()
