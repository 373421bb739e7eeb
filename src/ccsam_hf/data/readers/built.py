"""Layout "built": what `ccsam-hf data build` wrote, with its splits.

build.json
data/<data set>/<split>-00000-of-00001.parquet      see `ccsam_hf.data.rows`
"""

from pathlib import Path

from ..cases import Case
from ..rows import cases_of, check_complete


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    check_complete(directory)
    return [case for path in sorted(directory.glob("data/*/*.parquet")) for case in cases_of(path)]
