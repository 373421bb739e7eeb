"""Cases -> what is wrong with them: duplicates, leakage between splits, wrong masks, unreadable files (`audit_cases`).

| kind | severity | |
|---|---|---|
| unreadable image, unreadable mask | error | truncated, missing, no image, more than 8 bits |
| mask of another size | error | than its image |
| full mask | error | covers more than 95 % of the image |
| leaking duplicate | error | pixel-equal images in several splits |
| leaking near duplicate | error | one picture in several splits |
| leaking patient | error | images of one patient in several splits |
| two categories | error | one picture filed, for instance, as benign and as malignant |
| contradicting masks | warning | one picture at one size, the same target, masks with a Dice below 0.7 |
| duplicate, near duplicate | warning | within one split |
| alike | note | one lesion or loop, or one standard plane of several patients: less alike than copies are, and moved |
| empty mask | warning | a note where the category is "normal" |
| tiny mask | warning | covers less than 0.1 % of the image |
| smeared mask | warning | a file of a single object with more than two grey values, as JPEG and interpolation leave |
| unknown label value | warning | a label map with values that are no class of its data set |
| marks at the object | warning | calipers, text or colour burnt in at the object: they give the answer away |
| burnt-in marks | note | elsewhere in the image |

Each image is decoded once, and nothing but its fingerprint and thumbnails of its masks is kept. `fingerprints` says
what counts as one picture, `burnt_in` what counts as a mark.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from ..cases import SPLITS, Case, MaskFiles
from .findings import SEVERITIES, AuditReport, Finding, ImageKey, images_to_remove, write_report
from .fingerprints import SCORE_OF_MIRRORED, SCORE_OF_MOVED, Match, find_matches, needed_score
from .looks import Look, dice_of, look_at

SAME_OBJECT_DICE = 0.7


def audit_cases(cases: Sequence[Case], *, progress: bool = False) -> AuditReport:
    """Look at every image and mask, and compare all images with each other.

    Args:
        cases: of any number of data sets, with their split where they have one. Cases of one image share its name.
        progress: whether bars are shown on standard error.

    Returns:
        The findings of the kinds above; the same cases give the same report, whatever their order.
    """
    images: dict[ImageKey, list[Case]] = defaultdict(list)
    for case in cases:
        images[case.dataset, case.name].append(case)
    label_values = defaultdict(lambda: {0})
    for case in cases:
        if isinstance(case.mask_source, MaskFiles) and case.mask_source.value is not None:
            label_values[case.dataset].add(case.mask_source.value)
    looks = [
        look_at(sorted(images[key], key=lambda case: (case.class_id, case.target)), label_values[key[0]])
        for key in tqdm(sorted(images), desc="read", unit="image", disable=not progress)
    ]
    readable = [look for look in looks if look.fingerprint is not None]
    findings = [finding for look in looks for finding in look.findings]
    findings += leaking_patients(looks)
    equal = pixel_equal(readable)
    findings += [finding for same in equal for finding in duplicates(same)]
    matches = matches_of(readable, progress)
    copies = [match for match in matches if match.is_copy]
    findings += near_duplicates(readable, copies)
    findings += alike(readable, [match for match in matches if not match.is_copy])
    findings += contradictions(readable, equal, copies)
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.kind, finding.images))
    return AuditReport(tuple(findings), counts_of(images), limits_of(looks))


def finding_of(
    kind: str,
    severity: str,
    looks: Sequence[Look],
    detail: str,
    score: float | None = None,
    remove: Sequence[Look] = (),
) -> Finding:
    """A finding about several images."""
    keys, splits = tuple(look.key for look in looks), tuple(look.split for look in looks)
    return Finding(kind, severity, keys, splits, detail, score, tuple(look.key for look in remove))


def rank(look: Look) -> int:
    """How much an image's split is worth protecting: test most, no split least."""
    return SPLITS.index(look.split) if look.split is not None else -1


def splits_known(looks: Sequence[Look]) -> set[str]:
    """The splits of images, without those that have none."""
    return {look.split for look in looks if look.split is not None}


def leaking_patients(looks: Sequence[Look]) -> Iterator[Finding]:
    """Patients with images in several splits."""
    of_patient: dict[tuple[str, str], list[Look]] = defaultdict(list)
    for look in looks:
        if look.patient_id is not None and look.split is not None:
            of_patient[look.key[0], look.patient_id].append(look)
    for (_, patient), own in of_patient.items():
        if len(splits_known(own)) > 1:
            own.sort(key=lambda look: (-rank(look), look.key))
            numbers = ", ".join(f"{sum(look.split == split for look in own)} in {split}" for split in SPLITS)
            removed = [look for look in own if look.split != own[0].split]
            yield finding_of("leaking patient", "error", own, f"patient {patient} has {numbers}", remove=removed)


def pixel_equal(looks: Sequence[Look]) -> list[list[Look]]:
    """Groups of at least two images of equal size and grey values."""
    groups: dict[bytes, list[Look]] = defaultdict(list)
    for look in looks:
        groups[look.fingerprint.digest].append(look)
    return [same for same in groups.values() if len(same) > 1]


def duplicates(same: Sequence[Look]) -> Iterator[Finding]:
    """Findings about pixel-equal images: between splits, and within each of them."""
    same = sorted(same, key=lambda look: (-rank(look), look.key))
    if len(splits_known(same)) > 1:
        removed = [look for look in same if look.split not in (None, same[0].split)]
        yield finding_of("leaking duplicate", "error", same, "equal pixels" + across(same), remove=removed)
    for split in (*SPLITS, None):
        own = [look for look in same if look.split == split]
        if len(own) > 1:
            yield finding_of("duplicate", "warning", own, "equal pixels" + across(own), remove=own[1:])


def across(looks: Sequence[Look]) -> str:
    """Says so where images are of several data sets."""
    return ", in several data sets" if len({look.key[0] for look in looks}) > 1 else ""


def matches_of(looks: Sequence[Look], progress: bool) -> list[Match]:
    """The pairs that show one picture, without those of one patient in one split."""
    numbers: dict[tuple, int] = {}
    patients = [
        -1 if look.patient_id is None else numbers.setdefault((look.key[0], look.patient_id, look.split), len(numbers))
        for look in looks
    ]
    groups = [rank(look) for look in looks]
    return find_matches([look.fingerprint for look in looks], [patients], groups, progress)


def near_duplicates(looks: Sequence[Look], matches: Sequence[Match]) -> Iterator[Finding]:
    """What matches mean: for each image all that leak from it, and within a split all that hang together."""
    leaks: dict[int, list[tuple[Look, Match]]] = defaultdict(list)
    within = []
    for match in matches:
        one, other = looks[match.first], looks[match.second]
        if len(splits_known([one, other])) > 1:
            if rank(one) > rank(other):
                leaks[match.first].append((other, match))
            else:
                leaks[match.second].append((one, match))
        else:
            within.append(match)
    for index, leaking in leaks.items():
        others = [other for other, _ in leaking]
        shown = [looks[index], *others]
        detail = described([match for _, match in leaking]) + across(shown)
        score = min(match.score for _, match in leaking)
        yield finding_of("leaking near duplicate", "error", shown, detail, score, remove=others)
    for own in hanging_together(within):
        shown = [looks[i] for i in sorted({i for match in own for i in (match.first, match.second)})]
        detail = described(own) + across(shown)
        yield finding_of("near duplicate", "warning", shown, detail, min(match.score for match in own))


def alike(looks: Sequence[Look], matches: Sequence[Match]) -> Iterator[Finding]:
    """What matches that are no copies mean: a note for all that hang together, whatever their splits."""
    for own in hanging_together(matches):
        shown = [looks[i] for i in sorted({i for match in own for i in (match.first, match.second)})]
        detail = f"{described(own)}{across(shown)}; look whether they show one patient"
        yield finding_of("alike", "note", shown, detail, min(match.score for match in own))


def hanging_together(matches: Sequence[Match]) -> list[list[Match]]:
    """Matches in groups that share images, directly or by others."""
    if not matches:
        return []
    pairs = np.array([(match.first, match.second) for match in matches])
    size = int(pairs.max()) + 1
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    parts = connected_components(graph, directed=False)[1]
    groups = defaultdict(list)
    for match in matches:
        groups[parts[match.first]].append(match)
    return list(groups.values())


def described(matches: Sequence[Match]) -> str:
    """How alike the images of matches are, and what was done to them."""
    low, high = min(match.score for match in matches), max(match.score for match in matches)
    words = [f"correlation {low:.2f}" + (f" to {high:.2f}" if f"{high:.2f}" != f"{low:.2f}" else "")]
    flips = sorted({match.flip for match in matches} - {""})
    words += [f"mirrored {' and '.join(flips)}"] if flips else []
    words += ["cropped or moved"] if any(match.moved for match in matches) else []
    return ", ".join(words)


def contradictions(
    looks: Sequence[Look], equal: Sequence[Sequence[Look]], matches: Sequence[Match]
) -> Iterator[Finding]:
    """One picture that is filed in two ways, or whose masks differ although nothing was moved."""
    pairs = [(same[0], other, True, None) for same in equal for other in same[1:]]
    pairs += [
        (looks[match.first], looks[match.second], match.flip == "" and not match.moved, match.score)
        for match in matches
    ]
    for one, other, in_place, score in pairs:
        categories = sorted({look.category for look in (one, other)} - {None})
        if len(categories) > 1 and one.key[0] == other.key[0]:
            detail = f"filed as {' and as '.join(categories)}"
            yield finding_of("two categories", "error", (one, other), detail, score, remove=(one, other))
        if not in_place or one.size != other.size:
            continue
        for target in sorted(one.masks.keys() & other.masks.keys()):
            dice = dice_of(one.masks[target], other.masks[target])
            if dice < SAME_OBJECT_DICE:
                detail = f"the masks of {target!r} have a Dice of {dice:.2f}"
                removed = (one, other) if score is None else ()  # what is merely alike may have moved a little
                yield finding_of("contradicting masks", "warning", (one, other), detail, score, remove=removed)


def counts_of(images: dict[ImageKey, list[Case]]) -> dict:
    """The counts of `AuditReport`."""
    datasets: dict[str, dict[str, dict[str, int]]] = {}
    for (dataset, _), own in sorted(images.items()):
        count = datasets.setdefault(dataset, {}).setdefault(own[0].split or "none", {"images": 0, "cases": 0})
        count["images"] += 1
        count["cases"] += len(own)
    return {"images": len(images), "cases": sum(len(own) for own in images.values()), "datasets": datasets}


def limits_of(looks: Sequence[Look]) -> tuple[str, ...]:
    """The limits of `AuditReport`."""
    unread = sum(look.fingerprint is None for look in looks)
    bare = sum(look.fingerprint is not None and not look.fingerprint.comparable for look in looks)
    unknown = sum(look.patient_id is None for look in looks)
    return (
        f"Two images count as one picture from a correlation of {needed_score(1):.2f}, or {needed_score(0.25):.2f} "
        f"where both show something in only a quarter of it; {SCORE_OF_MOVED:.2f} where one is cropped or moved, "
        f"{SCORE_OF_MIRRORED:.2f} where one is mirrored. Crops of more than about 5 % a side, turned images and "
        "other planes of one object are not found.",
        "Images of one patient in one split are compared for equal pixels alone.",
        f"Of {unknown} images the patient is unknown: whether they share one in several splits cannot be told.",
        f"{bare} images show too little to be compared, {unread} could not be read.",
        "Burnt-in marks are found by their shape: faint ones are missed, and fine speckle can look like them.",
    )


__all__ = ["AuditReport", "Finding", "audit_cases", "images_to_remove", "write_report"]
