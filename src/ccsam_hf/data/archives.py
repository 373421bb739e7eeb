"""A downloaded archive -> a directory, without trust in what the archive says about itself (`unpack`, `data_root`).

zip, tar, tar.gz, tar.bz2 and tar.xz, told by content and not by name. Only plain files and folders are written, below
the target and nowhere else; owners, permissions and times are not taken over. What macOS adds, `__MACOSX/` and
`.DS_Store`, is left out. Everything is written to a temporary directory beside the target and renamed at the end, so
that the target is complete or absent.
"""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from ..files import check_new_folder, replace_folder

MAX_BYTES = 200 * 10**9
MAX_MEMBERS = 1_000_000
MAX_RATIO = 500  # zip packs a simulated image 3 times smaller, its map of classes 150, a mask 400, zeros 1000 times
RATIO_FROM_BYTES = 100 * 10**6  # what is smaller may shrink as it likes
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 24  # of a tar member: tarfile reads headers whole
TAR_BLOCK = 512
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
IGNORED = ("__MACOSX", ".DS_Store")
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags of a zip member: of its content, strongly, and of the list of members
# What the standard library raises for a damaged archive; NotImplementedError for a kind of compression.
DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    UnicodeError,
    OverflowError,
    NotImplementedError,
)


def unpack(
    archive: str | Path,
    directory: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    progress: bool = False,
) -> Path:
    """Unpack a zip or tar archive into a new directory.

    Args:
        archive: the file.
        directory: absent or empty. A single folder at the top of the archive is kept: see `data_root`.
        max_bytes: unpacked, of all members together, counted as they are written.
        max_members: files and folders.
        progress: whether a bar is shown on standard error.

    Returns:
        The directory, complete.

    Raises:
        FileExistsError: the directory has content.
        FileNotFoundError: there is no such archive.
        ValueError: the file is no such archive, is damaged or empty, is more than the limits allow, unpacks to more
            than 500 times its size (from 100 MB on, all together or one member), or has a member that is encrypted,
            stands there twice, would lie outside the directory, or is neither a plain file nor a folder. Two names
            that differ only by case are refused where the file system takes them for one.
    """
    archive, directory = Path(archive), Path(directory)
    if not archive.is_file():
        raise FileNotFoundError(f"{archive} is not a file; expected a zip or tar archive")
    check_new_folder(directory)
    with replace_folder(directory) as unfinished:
        with tqdm(desc=f"unpack {archive.name}", unit="B", unit_scale=True, disable=not progress) as bar:
            write_members(archive, unfinished, max_bytes, max_members, bar)
    return directory


def data_root(directory: str | Path) -> Path:
    """The folder in which the content of an unpacked archive begins.

    Descends as long as a directory holds one folder and nothing else; `.DS_Store` and `__MACOSX` do not count.
    """
    directory = Path(directory)
    content = [path for path in directory.iterdir() if path.name not in IGNORED]
    return data_root(content[0]) if len(content) == 1 and content[0].is_dir() else directory


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive.

    Attributes:
        name: as the archive has it.
        is_folder: or else a plain file.
        packed_bytes: no fewer than it takes up in the archive.
        chunks: its content, to be read before the next member; raises ValueError where it is damaged.
    """

    name: str
    is_folder: bool
    packed_bytes: int
    chunks: Iterator[bytes]


def write_members(archive: Path, directory: Path, max_bytes: int, max_members: int, bar: tqdm) -> None:
    """Write what an archive holds into an empty directory; errors as `unpack`."""
    archive_bytes = archive.stat().st_size
    num_files = num_bytes = 0
    for number, member in enumerate(members_of(archive), start=1):
        if number > max_members:
            raise ValueError(f"{archive} has more than {max_members:,} members; if you trust it, unpack it by hand")
        parts = parts_of(archive, member.name)
        if parts[:1] == ["__MACOSX"] or parts[-1:] == [".DS_Store"]:
            continue
        path = directory.joinpath(*parts)
        try:
            (path if member.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
            file = None if member.is_folder else path.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"{archive} has {member.name!r} twice, as a file and a folder, or in another case; expected every "
                "name once: make the archive again"
            ) from error
        if file is None:
            continue
        num_files += 1
        member_bytes = 0
        with file:
            for chunk in member.chunks:
                member_bytes += len(chunk)
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise ValueError(
                        f"{archive} unpacks to more than {max_bytes:,} bytes (at {member.name!r}); if you trust it, "
                        "unpack it by hand"
                    )
                if is_bomb(member_bytes, member.packed_bytes) or is_bomb(num_bytes, archive_bytes):
                    raise ValueError(
                        f"{archive} unpacks to more than {MAX_RATIO} times its size (at {member.name!r}), as "
                        "decompression bombs do; if you trust it, unpack it by hand"
                    )
                file.write(chunk)
                bar.update(len(chunk))
    if not num_files:
        raise ValueError(f"{archive} holds no file; expected an archive of a data set: download it again")


def is_bomb(unpacked_bytes: int, packed_bytes: int) -> bool:
    """Whether something grows more than images and label maps do."""
    return unpacked_bytes > RATIO_FROM_BYTES and unpacked_bytes > MAX_RATIO * packed_bytes


def parts_of(archive: Path, name: str) -> list[str]:
    """The folders and the name of a member, none for the top itself; ValueError for one that leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    has_drive = parts and re.match("[A-Za-z]:", parts[0])
    if name.startswith("/") or has_drive or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(
            f"{archive} has the member {name!r}; expected a name below the target, with / between folders and no .., "
            "drive or backslash: make the archive again, and do not unpack it by hand unless you trust it"
        )
    return parts


def members_of(archive: Path) -> Iterator[Member]:
    """The members of an archive of any kind, in its order."""
    with archive.open("rb") as file:
        start = file.read(8)
    if start.startswith(ZIP_STARTS):
        return zip_members(archive)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)
    return tar_members(archive, opener)


def zip_members(archive: Path) -> Iterator[Member]:
    """The members of a zip archive."""
    with reading(archive), zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        if sum(info.compress_size for info in infos) > archive.stat().st_size:
            raise ValueError(f"{archive} has members that overlap, as decompression bombs do: do not unpack it")
        for info in infos:
            name = info.orig_filename  # not yet cut off or rewritten
            if info.flag_bits & ENCRYPTED:
                raise ValueError(f"{archive} has the encrypted member {name!r}; decrypt the archive first")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (info.is_dir() and info.file_size):
                raise not_plain(archive, name, "a link, a device or a folder with content")
            yield Member(
                name=name,
                is_folder=info.is_dir(),
                packed_bytes=info.compress_size,
                chunks=read_chunks(archive, name, partial(file.open, info), info.file_size),
            )


def tar_members(archive: Path, opener: Callable[..., IO[bytes]]) -> Iterator[Member]:
    """The members of a tar archive.

    Args:
        archive: the file.
        opener: opens it decompressed.
    """
    with (
        reading(archive),
        opener(archive, "rb") as stream,
        tarfile.open(fileobj=TarStream(stream), mode="r:") as file,
    ):
        archive_bytes = archive.stat().st_size
        for info in file:
            if not (info.isreg() or info.isdir()):
                raise not_plain(archive, info.name, "a link" if info.issym() or info.islnk() else "a device")
            yield Member(
                name=info.name,
                is_folder=info.isdir(),
                packed_bytes=archive_bytes,  # what one member takes of a compressed stream is not known
                chunks=read_chunks(archive, info.name, partial(file.extractfile, info), info.size),
            )
        # tarfile takes anything that is no header for the end of the archive, which is a block of zeros.
        stream.seek(file.offset)
        if stream.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            raise tarfile.ReadError("it ends without the mark of its end")
        while rest := stream.read(CHUNK_BYTES):  # up to the checksum behind it
            if rest.strip(b"\0"):
                raise tarfile.ReadError("something stands behind the mark of its end")


class TarStream:
    """What tarfile needs of a file, and refuses to read a header that would fill the memory."""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Read as `stream` does; `tarfile.ReadError` where `size` is beyond any chunk and any header."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.stream.read(size)


def read_chunks(archive: Path, name: str, opener: Callable[[], IO[bytes]], num_bytes: int) -> Iterator[bytes]:
    """The content of a member; ValueError where it is damaged or not as long as the archive says."""
    with reading(archive, name), opener() as stream:
        remaining = num_bytes
        while chunk := stream.read(CHUNK_BYTES):
            remaining -= len(chunk)
            yield chunk
        if remaining:
            raise EOFError(f"expected {num_bytes} bytes, got {num_bytes - remaining}")


def not_plain(archive: Path, name: str, kind: str) -> ValueError:
    """The error to raise for a member that is no file or folder."""
    return ValueError(f"{archive} has the member {name!r}, {kind}; expected files and folders: make the archive again")


@contextmanager
def reading(archive: Path, name: str | None = None) -> Iterator[None]:
    """Turn what the standard library raises for a damaged archive into ValueError."""
    try:
        yield
    except DAMAGES as error:
        place = "" if name is None else f" at {name!r}"
        raise ValueError(
            f"{archive} cannot be read{place} ({error}); expected a complete zip, tar, tar.gz, tar.bz2 or tar.xz "
            "archive: download it again"
        ) from error
