"""What an archive may hold, what is refused with which words, and that nothing is left behind or outside."""

import io
import lzma
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from ccsam_hf.data import archives
from ccsam_hf.data.archives import data_root, unpack

TREE = {
    "set/images/a.png": b"image" * 100,
    "set/images/b.png": b"",
    "set/masks/a.png": b"mask",
    "set/list.txt": b"a\n",
}
TAR_MODES = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
KINDS = ["zip", *TAR_MODES]


def tar_info(name: str, size: int = 0, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_zip(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    mode = TAR_MODES[path.name.split(".", 1)[1]]
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tar_info(name, len(content)) if isinstance(name, str) else name
            file.addfile(info, io.BytesIO(content))
    return path


def write(path: Path, members: list) -> Path:
    return write_zip(path, members) if path.suffix == ".zip" else write_tar(path, members)


def content_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def assert_refused(archive: Path, message: str, **limits) -> None:
    """The error says so, and beside the archive lies what lay there before."""
    before = sorted(archive.parent.parent.rglob("*"))
    with pytest.raises(ValueError, match=message):
        unpack(archive, archive.parent / "target", **limits)
    assert sorted(archive.parent.parent.rglob("*")) == before


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with room above it for what tries to get out."""
    folder = tmp_path / "above" / "downloads"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_archive_comes_out_as_it_was(folder, kind):
    archive = write(folder / f"data.{kind}", list(TREE.items()))
    archive = archive.rename(folder / "download")  # the content tells the kind
    target = unpack(archive, folder / "new" / "target")
    assert target == folder / "new" / "target" and content_of(target) == TREE
    assert data_root(target) == target / "set"
    assert sorted(path.name for path in folder.iterdir()) == ["download", "new"]
    assert [path.name for path in (folder / "new").iterdir()] == ["target"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_folders_of_their_own_and_names_with_dots_are_kept(folder, kind):
    empty = tar_info("empty", type=tarfile.DIRTYPE) if kind != "zip" else "empty/"
    top = tar_info("./", type=tarfile.DIRTYPE) if kind != "zip" else "./"
    target = unpack(write(folder / f"a.{kind}", [(top, b""), (empty, b""), ("./x//..y.txt", b"1")]), folder / "target")
    assert content_of(target) == {"x/..y.txt": b"1"} and (target / "empty").is_dir()


def test_an_archive_made_by_tar_of_a_folder(folder):
    for name, content in TREE.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as file:
        file.add(folder / "source", arcname=".")
    assert content_of(unpack(folder / "a.tar.gz", folder / "target")) == TREE


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_macos_adds_is_left_out_and_nothing_else(folder, kind):
    members = {"set/a": b"1", "__MACOSX/set/._a": b"2", "set/.DS_Store": b"3", "set/._b": b"4", "set/__MACOSX": b"5"}
    target = unpack(write(folder / f"a.{kind}", list(members.items())), folder / "target")
    assert set(content_of(target)) == {"set/a", "set/._b", "set/__MACOSX"}


def test_a_name_that_leads_elsewhere_is_refused_even_where_it_would_be_left_out(folder):
    assert_refused(write(folder / "a.zip", [("__MACOSX/../../evil", b"")]), "expected a name below the target")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "..", "/evil", "//evil", "C:/evil", "./c:evil", "..\\evil", "a\\b", "\\\\x\\y"]
)
def test_a_name_that_leads_elsewhere_is_refused(folder, kind, name):
    archive = write(folder / f"a.{kind}", [("good", b"1"), (name, b"2")])
    assert_refused(archive, "expected a name below the target, with / between folders")


def test_a_name_that_ends_for_zipfile_before_it_ends_is_refused(folder):
    archive = write_zip(folder / "a.zip", [("image.pngX.exe", b"1")])
    archive.write_bytes(archive.read_bytes().replace(b"image.pngX.exe", b"image.png\0.exe"))
    assert_refused(archive, r"has the member 'image.png\\x00.exe'; expected a name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(folder, kind):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    archive = write_zip(folder / "a.zip", [(info, b"../../evil"), ("link/file", b"1")])
    assert_refused(archive, "has the member 'link', a link, a device .*; expected files and folders")


@pytest.mark.parametrize(
    "kind, word",
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(folder, kind, word):
    archive = write_tar(folder / "a.tar", [("good", b"1"), (tar_info("x", type=kind, linkname="good"), b"")])
    assert_refused(archive, f"has the member 'x', {word}; expected files and folders")


def test_a_folder_with_content_in_a_zip_is_refused(folder):
    assert_refused(write_zip(folder / "a.zip", [("x", b""), ("set/", b"content")]), "a folder with content")


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_an_encrypted_zip_is_refused(folder, flag):
    archive = write_zip(folder / "a.zip", [("secret", b"1")])
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = content.index(signature) + offset
        content[place : place + 2] = struct.pack("<H", flag)
    archive.write_bytes(content)
    assert_refused(archive, "has the encrypted member 'secret'; decrypt the archive first")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("names", [("a/x", "a/x"), ("a/x", "./a//x"), ("a", "a/x"), ("a/x", "a")])
def test_a_name_that_stands_twice_is_refused(folder, kind, names):
    archive = write(folder / f"a.{kind}", [(name, b"1") for name in names])
    assert_refused(archive, f"has '{names[1]}' twice, as a file and a folder, or in another case")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_differ_by_case_are_refused_where_one_would_overwrite_the_other(folder, kind):
    archive = write(folder / f"a.{kind}", [("a/x.png", b"1"), ("a/X.png", b"2")])
    (folder / "probe").touch()
    if (folder / "PROBE").exists():
        assert_refused(archive, "has 'a/X.png' twice, as a file and a folder, or in another case")
    else:
        assert content_of(unpack(archive, folder / "target")) == {"a/x.png": b"1", "a/X.png": b"2"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_unpacks_to_too_much_is_refused(folder, kind):
    archive = write(folder / f"a.{kind}", [("a", bytes(5000)), ("b", bytes(5000))])
    assert_refused(archive, r"unpacks to more than 9,999 bytes \(at 'b'\)", max_bytes=9999)
    assert len(content_of(unpack(archive, folder / "target", max_bytes=10_000))) == 2


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_bomb_is_refused_by_its_ratio(folder, kind, monkeypatch):
    archive = write(folder / f"a.{kind}", [("zeros", bytes(4 << 20))])
    assert len(content_of(unpack(archive, folder / "small"))) == 1  # below 100 MB anything may shrink
    monkeypatch.setattr(archives, "RATIO_FROM_BYTES", 1 << 20)
    assert_refused(archive, r"unpacks to more than 500 times its size \(at 'zeros'\)")


def test_a_bomb_beside_honest_members_is_refused_in_a_zip(folder, rng, monkeypatch):
    monkeypatch.setattr(archives, "RATIO_FROM_BYTES", 1 << 20)
    archive = write_zip(folder / "a.zip", [("noise", rng.bytes(1 << 20)), ("zeros", bytes(4 << 20))])
    assert archive.stat().st_size * archives.MAX_RATIO > 5 << 20  # all together it would pass
    assert_refused(archive, "500 times its size .at 'zeros'.")


def test_members_that_share_their_bytes_are_refused_in_a_zip(folder):
    archive = write_zip(folder / "a.zip", [("a", bytes(range(256)) * 40)])
    content = archive.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry, ending = content[start:end], bytearray(content[end:])
    entries = b"".join(entry.replace(b"a", bytes([letter]), 1) for letter in range(ord("a"), ord("k")))
    struct.pack_into("<HHI", ending, 8, 10, 10, len(entries))
    archive.write_bytes(content[:start] + entries + ending)
    with zipfile.ZipFile(archive) as file:
        assert len(file.infolist()) == 10
    assert_refused(archive, "has members that overlap")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_members_are_refused(folder, kind):
    archive = write(folder / f"a.{kind}", [(f"{i}", b"") for i in range(5)])
    assert_refused(archive, "has more than 4 members", max_members=4)
    assert len(content_of(unpack(archive, folder / "target", max_members=5))) == 5


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_zip_whose_header_lies_about_a_size_is_refused(folder, factor):
    archive = write_zip(folder / "a.zip", [("a", b"0123456789" * 100)])
    content = bytearray(archive.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, int(1000 * factor))
    archive.write_bytes(content)
    assert_refused(archive, "cannot be read at 'a' .*download it again")


def test_a_tar_whose_header_lies_about_a_size_is_refused(folder):
    archive = write_tar(folder / "a.tar", [("a", b"1" * 600)])
    with tarfile.open(archive) as file:
        header = file.next()
    header.size = 10**9
    archive.write_bytes(header.tobuf() + archive.read_bytes()[512:])
    assert_refused(archive, "cannot be read at 'a' .*download it again")


def test_a_header_that_would_fill_the_memory_is_refused(folder):
    header = tar_info("././@LongLink", 1 << 30, type=tarfile.GNUTYPE_LONGNAME)
    path = folder / "a.tar.xz"
    path.write_bytes(lzma.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    assert_refused(path, "cannot be read .a header of 1073741824 bytes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_a_truncated_archive_is_refused(folder, kind, share, rng):
    archive = write(folder / f"a.{kind}", [(f"{i}.png", rng.bytes(3000)) for i in range(10)])
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    assert_refused(archive, "cannot be read.*expected a complete zip, tar, tar.gz, tar.bz2 or tar.xz")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tar"])
def test_an_archive_without_its_last_bytes_is_refused(folder, kind):
    archive = write(folder / f"a.{kind}", list(TREE.items()))
    archive.write_bytes(archive.read_bytes()[:-4])  # the members are whole
    assert_refused(archive, "cannot be read")


def test_a_tar_cut_between_two_members_is_refused(folder):
    archive = write_tar(folder / "a.tar", [("a", b"1" * 512), ("b", b"2" * 512)])
    archive.write_bytes(archive.read_bytes()[:1024])  # "a" is whole
    assert_refused(archive, "it ends without the mark of its end")


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_byte_of_the_content_is_found(folder, kind, rng):
    content = rng.bytes(4000)
    archive = write(folder / f"a.{kind}", [("a", content)])
    whole = archive.read_bytes()
    if kind == "tar":  # has checksums of its headers alone
        archive.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert_refused(archive, "cannot be read")
        return
    for place in range(len(whole) // 4, len(whole) * 3 // 4, len(whole) // 10):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert_refused(archive, "cannot be read")


def test_a_damaged_header_amid_a_tar_does_not_end_it_early(folder):
    archive = write_tar(folder / "a.tar", [("a", b"1" * 512), ("b", b"2" * 512)])
    content = bytearray(archive.read_bytes())
    content[1024] ^= 1
    archive.write_bytes(content)
    assert_refused(archive, "it ends without the mark of its end")


def test_two_tars_in_one_file_are_refused(folder):
    archive = write_tar(folder / "a.tar", [("a", b"1")])
    archive.write_bytes(archive.read_bytes() * 2)
    assert_refused(archive, "something stands behind the mark of its end")


@pytest.mark.parametrize("content", [b"", b"text", b"Rar!\x1a\x07\x00" + bytes(600), b"\x1f\x8b"])
def test_a_file_that_is_no_archive_is_refused(folder, content):
    (folder / "a.zip").write_bytes(content)
    assert_refused(folder / "a.zip", "cannot be read.*expected a complete zip, tar")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_without_a_file_is_refused(folder, kind):
    empty = [(tar_info("a", type=tarfile.DIRTYPE) if kind != "zip" else "a/", b""), (".DS_Store", b"1")]
    assert_refused(write(folder / f"a.{kind}", empty), "holds no file; expected an archive of a data set")
    assert_refused(write(folder / f"b.{kind}", []), "holds no file|cannot be read")


def test_a_target_with_content_and_a_missing_archive_are_refused(folder):
    archive = write_zip(folder / "a.zip", list(TREE.items()))
    (folder / "full").mkdir()
    (folder / "full" / "mine").touch()
    with pytest.raises(FileExistsError, match="is not an empty folder; choose another"):
        unpack(archive, folder / "full")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        unpack(archive, archive)
    with pytest.raises(FileNotFoundError, match="expected a zip or tar archive"):
        unpack(folder / "none.zip", folder / "target")
    assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "full"]
    (folder / "full" / "mine").unlink()
    assert content_of(unpack(archive, folder / "full")) == TREE  # an empty one is taken


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_nothing(folder, monkeypatch, error):
    archive = write_tar(folder / "a.tar.gz", list(TREE.items()))
    before = sorted(folder.parent.rglob("*"))
    written = []

    def interrupted(*numbers):
        written.extend(folder.glob(".target.*/set/images/a.png"))
        raise error

    monkeypatch.setattr(archives, "is_bomb", interrupted)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        unpack(archive, folder / "target")
    assert written and sorted(folder.parent.rglob("*")) == before


def test_progress_is_shown_where_asked(folder, capsys):
    archive = write_zip(folder / "a.zip", list(TREE.items()))
    unpack(archive, folder / "silent")
    assert capsys.readouterr().err == ""
    unpack(archive, folder / "shown", progress=True)
    assert "unpack a.zip: 506B" in capsys.readouterr().err


def test_the_root_of_the_data_is_below_folders_that_hold_nothing_but_one(tmp_path):
    (tmp_path / "CAMUS_public" / "database_nifti").mkdir(parents=True)
    assert data_root(tmp_path) == tmp_path / "CAMUS_public" / "database_nifti"
    (tmp_path / "CAMUS_public" / "database_split").mkdir()
    (tmp_path / ".DS_Store").touch()
    assert data_root(tmp_path) == tmp_path / "CAMUS_public"
    (tmp_path / "README.txt").touch()
    assert data_root(str(tmp_path)) == tmp_path
