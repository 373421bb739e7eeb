"""What an audit found (`Finding`, `AuditReport`), as a table, as files and as a contact sheet (`write_report`)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...files import replace_file, write_json, write_text
from ...visualization import color_of, contact_sheet, line_width, outline, to_rgb
from ..cases import Case

SEVERITIES = ("error", "warning", "note")
UNREADABLE = (ValueError, OSError)  # what reading an image or a mask raises

ImageKey = tuple[str, str]  # (data set, name)

IMAGES_OF_LINE = 6  # of a finding, before "and 3 more"
ROWS_OF_KIND = 12  # of the contact sheet
TILE_SIZE = 220
LINE_HEIGHT = 20


@dataclass(frozen=True)
class Finding:
    """Something wrong, or worth knowing, about one or several images.

    Attributes:
        kind: in words, such as "leaking near duplicate"; see `ccsam_hf.data.audit`.
        severity: one of `SEVERITIES`.
        images: (data set, name) of each image.
        splits: of each image, None where it has none.
        detail: what is wrong, in a few words.
        score: correlation of the least alike of the images that were compared, None where none were.
        remove: the images that should go; the others may stay, or the finding is nothing that removal mends.
    """

    kind: str
    severity: str
    images: tuple[ImageKey, ...]
    splits: tuple[str | None, ...]
    detail: str
    score: float | None = None
    remove: tuple[ImageKey, ...] = ()

    def __str__(self):
        shown = [label(*each) for each in list(zip(self.images, self.splits, strict=True))[:IMAGES_OF_LINE]]
        more = [f"and {len(self.images) - IMAGES_OF_LINE} more"] if len(self.images) > IMAGES_OF_LINE else []
        return f"{', '.join([*shown, *more])}: {self.detail}"


@dataclass(frozen=True)
class AuditReport:
    """What an audit found, and what it looked at.

    Attributes:
        findings: the most severe ones first, then by kind and images.
        counts: "images" and "cases" of all data sets, and "datasets": data set -> split or "none" -> both numbers.
        limits: sentences on what the audit cannot see or did not compare.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, Any]
    limits: tuple[str, ...]

    def by_kind(self) -> dict[tuple[str, str], list[Finding]]:
        """(severity, kind) -> its findings, in the order of the findings."""
        groups = defaultdict(list)
        for finding in self.findings:
            groups[finding.severity, finding.kind].append(finding)
        return dict(groups)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        summary = [
            {"severity": severity, "kind": kind, "findings": len(findings)}
            for (severity, kind), findings in self.by_kind().items()
        ]
        return {
            "counts": self.counts,
            "summary": summary,
            "limits": list(self.limits),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_table(self) -> str:
        """Plain text: counts, the number of findings by kind, one line a finding, and the limits."""
        lines = [f"{self.counts['images']} images, {self.counts['cases']} cases"]
        for dataset, splits in self.counts["datasets"].items():
            numbers = ", ".join(f"{split} {count['images']}" for split, count in splits.items())
            lines.append(f"  {dataset}: {numbers} images")
        lines += ["", f"{len(self.findings)} findings"]
        for (severity, kind), findings in self.by_kind().items():
            lines.append(f"  {severity:8}{len(findings):>6}  {kind}")
        if self.findings:
            lines.append("")
        lines += [f"{finding.severity:8}  {finding.kind}  {finding}" for finding in self.findings]
        lines += ["", "What this audit cannot tell:", *(f"- {limit}" for limit in self.limits)]
        return "\n".join(lines)


def label(image: ImageKey, split: str | None) -> str:
    """An image with its split, as text."""
    return "/".join(part for part in image if part) + (f" [{split}]" if split else "")


def images_to_remove(report: AuditReport) -> dict[str, dict[str, str]]:
    """The images without which no finding that removal mends is left: data set -> name -> reason.

    Of images that stand in several splits, those in test stay, then those in validation. Of pixel-equal images in one
    split the first stays. Of one picture with two categories, and of pixel-equal images with clearly different masks,
    none stays, since which is right is unknown. Images without a readable image and mask of one size go, and those
    whose mask covers everything. Near duplicates in one split stay.
    """
    removed: dict[str, dict[str, str]] = {}
    for finding in report.findings:
        for dataset, name in finding.remove:
            removed.setdefault(dataset, {}).setdefault(name, f"{finding.kind}: {finding}")
    return removed


def write_report(report: AuditReport, cases: Sequence[Case], directory: str | Path) -> None:
    """Write findings.json, findings.txt (the table) and contact_sheet.png, each complete or not at all.

    Args:
        report: of an audit of these cases.
        cases: whose images and masks the sheet shows.
        directory: made where it is missing; the three files are replaced.
    """
    directory = Path(directory)
    write_json(directory / "findings.json", report.to_dict(), indent=1)
    write_text(directory / "findings.txt", report.to_table() + "\n")
    with replace_file(directory / "contact_sheet.png") as partial:
        sheet_of(report, cases).save(partial, format="PNG")


def sheet_of(report: AuditReport, cases: Sequence[Case]) -> Image.Image:
    """The images of findings with the outlines of their masks, by kind.

    A finding about several images has a row of its own, findings about one image share rows.
    """
    objects: dict[ImageKey, list[Case]] = defaultdict(list)
    for case in cases:
        objects[case.dataset, case.name].append(case)
    rows = [] if report.findings else [text_line("no finding")]
    for (severity, kind), findings in report.by_kind().items():
        single = all(len(finding.images) == 1 for finding in findings)
        shown = findings[: ROWS_OF_KIND * (IMAGES_OF_LINE if single else 1)]
        missing = f", {len(findings) - len(shown)} of them not shown" if len(shown) < len(findings) else ""
        rows.append(text_line(f"{severity}: {kind}, {len(findings)}{missing}", background="lightgray"))
        if single:
            tiles = [tile_of(objects[finding.images[0]]) for finding in shown]
            titles = [label(finding.images[0], finding.splits[0]) for finding in shown]
            rows.append(contact_sheet(tiles, titles, IMAGES_OF_LINE, TILE_SIZE))
            continue
        for finding in shown:
            images = list(zip(finding.images, finding.splits, strict=True))[:IMAGES_OF_LINE]
            rows.append(text_line(str(finding)))
            tiles = [tile_of(objects[image]) for image, _ in images]
            rows.append(contact_sheet(tiles, [label(*each) for each in images], IMAGES_OF_LINE, TILE_SIZE))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def text_line(text: str, background: str = "white") -> Image.Image:
    """A line as wide as the sheet; a longer text is cut."""
    line = Image.new("RGB", (IMAGES_OF_LINE * (TILE_SIZE + 6) + 6, LINE_HEIGHT), background)
    ImageDraw.Draw(line).text((6, 2), text, fill="black", font=ImageFont.load_default(13))
    return line


def tile_of(cases: Sequence[Case]) -> Image.Image:
    """An image with the outlines of its masks, as far as both can be read and fit each other; grey where it cannot."""
    try:
        image = cases[0].image
    except UNREADABLE:
        return Image.new("RGB", (TILE_SIZE, TILE_SIZE), "lightgray")
    picture = np.array(to_rgb(image))
    for i, case in enumerate(cases):
        try:
            mask = case.mask
        except UNREADABLE:
            continue
        if mask.shape == image.shape:
            picture[outline(mask, line_width(mask.shape))] = color_of(i)
    return Image.fromarray(picture)
