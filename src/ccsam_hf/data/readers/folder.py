"""Layout "folder": one's own images and masks.

    images/<name>.<png|jpg|jpeg|bmp|tif|tiff>
    masks/<name>.png         of one object; or of several, with labels.csv
    labels.csv               optional: value, target; see `label_maps`
    cases.csv                optional: name, target; also split, patient_id, mm_per_row, mm_per_column, comment

Where neither table says what an object is, it is an "object". With labels.csv an image has a case for each of its
rows, in images that do not show the structure with an empty mask, and the targets of cases.csv are not used. The data
set is named like the folder, but is no published one, whatever its name.
"""

from collections.abc import Iterable
from pathlib import Path

from ..cases import DEFAULT_TARGET, SPLITS, Case, ImageFile, MaskFiles, check_pairs, image_files
from .label_maps import ObjectMask, probe_masks, read_labels
from .tables import Row, read_millimetres, read_rows

MILLIMETRES = ("mm_per_row", "mm_per_column")
NOT_READ = ("seed", "comment")  # the simulator's, and one's own words


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    for folder in ("images", "masks"):
        if not (directory / folder).is_dir():
            raise FileNotFoundError(f"{directory} has no folder {folder!r}; layout 'folder' needs images/ and masks/")
    image_paths: dict[str, Path] = {}
    for path in image_files(directory / "images"):
        if path.stem in image_paths:
            raise ValueError(f"{path} and {image_paths[path.stem]} share the name {path.stem!r}: rename one of them")
        image_paths[path.stem] = path
    mask_paths = {path.stem: path for path in image_files(directory / "masks") if path.suffix.lower() == ".png"}
    check_pairs(directory, image_paths, mask_paths, mask_pattern="masks/<name>.png")
    about = read_table(directory / "cases.csv", image_paths)
    dataset = directory.resolve().name
    labels = read_labels(directory / "labels.csv")
    if labels is not None:
        if about:
            notes.append(f"{directory}: labels.csv says what the targets are; those of cases.csv are not used")
        return [
            Case(
                name=name,
                image_source=ImageFile(path),
                mask_source=MaskFiles((mask_paths[name],), value),
                dataset=dataset,
                class_id=value,
                **(about.get(name, {}) | {"target": target}),
            )
            for name, path in image_paths.items()
            for value, target in labels.items()
        ]
    probe_masks(list(mask_paths.values()))
    return [
        Case(
            name=name,
            image_source=ImageFile(path),
            mask_source=ObjectMask((mask_paths[name],)),
            dataset=dataset,
            **({"target": DEFAULT_TARGET} | about.get(name, {})),
        )
        for name, path in image_paths.items()
    ]


def read_table(path: Path, image_names: Iterable[str]) -> dict[str, dict]:
    """Fields of `Case` by name of the case, from `cases.csv`; nothing where there is none.

    Raises:
        ValueError: a row is not understood, names no image, or is the second of its name.
    """
    if not path.is_file():
        return {}
    rows: dict[str, Row] = {}
    for row in read_rows(path, ("name", "target"), ("split", "patient_id", *MILLIMETRES, *NOT_READ)):
        if row["name"] in rows:
            raise ValueError(
                f"{row.place}, is the second row of {row['name']!r}; expected one row an image: remove one"
            )
        rows[row["name"]] = row
    unknown = sorted(set(rows) - set(image_names))
    if unknown:
        raise ValueError(f"{path} names {len(unknown)} case(s) without an image, for instance {unknown[0]!r}")
    return {name: fields_of(row) for name, row in rows.items()}


def fields_of(row: Row) -> dict:
    """One row as fields of `Case`."""
    if not row["target"]:
        raise ValueError(f"{row.place}, has no target for {row['name']!r}: fill it in or remove the row")
    fields = {"target": row["target"]}
    if row["split"]:
        if row["split"] not in SPLITS:
            raise ValueError(
                f"{row.place}, has split {row['split']!r} for {row['name']!r}; expected {', '.join(SPLITS)} or none"
            )
        fields["split"] = row["split"]
    if row["patient_id"]:
        fields["patient_id"] = row["patient_id"]
    spacing_mm = read_millimetres(row, MILLIMETRES)
    return fields | ({"spacing_mm": spacing_mm} if spacing_mm else {})
