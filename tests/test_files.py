"""Files and folders are whole or absent, at whatever step the process is stopped."""

import os

import pytest

from ccsam_hf import files


class Stopped(BaseException):
    """Stands for a kill: no handler of the code under test may run behind it."""


def listing(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"é": 1})
    files.write_text(path, "second\r\n")
    assert path.read_bytes() == b"second\r\n" and list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_bytes() == b"second\r\n"


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first")
    with pytest.raises(RuntimeError), files.replace_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert listing(tmp_path) == {"a.txt": "first"}


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "a.txt", "")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "above" / "best"
    for text in ("one", "two"):
        with files.replace_folder(folder) as partial:
            (partial / text).write_text(text)
        assert listing(tmp_path) == {f"above/best/{text}": text}
    with pytest.raises(RuntimeError), files.replace_folder(folder) as partial:
        (partial / "three").write_text("half")
        raise RuntimeError
    assert listing(tmp_path) == {"above/best/two": "two"}


@pytest.mark.parametrize("stop_at", range(4))
def test_a_folder_survives_a_kill_at_every_renaming(tmp_path, monkeypatch, stop_at):
    folder = tmp_path / "best"
    with files.replace_folder(folder) as partial:
        (partial / "weights").write_text("old")
    steps = iter(range(100))

    def stop(step):
        def counted(*arguments, **options):
            if next(steps) >= stop_at:
                raise Stopped
            return step(*arguments, **options)

        return counted

    with monkeypatch.context() as patched:
        real_remove = files.shutil.rmtree
        patched.setattr(files.os, "replace", stop(os.replace))
        patched.setattr(files.shutil, "rmtree", stop(real_remove))
        with pytest.raises(Stopped), files.replace_folder(folder) as partial:
            (partial / "weights").write_text("new")
    files.recover_folder(folder)
    assert (folder / "weights").read_text() == ("old" if stop_at == 0 else "new")
    with files.replace_folder(folder) as partial:
        (partial / "weights").write_text("newest")
    assert listing(tmp_path) == {"best/weights": "newest"}


def test_a_folder_that_is_removed_is_gone_at_once(tmp_path, monkeypatch):
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a").write_text("a")

    def stop(*_, **__):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "rmtree", lambda path, ignore_errors=False: None if ignore_errors else stop())
        with pytest.raises(Stopped):
            files.remove_folder(folder)
    assert not folder.exists()
    files.remove_folder(folder)  # absent: nothing to do


def test_what_another_process_wrote_meanwhile_is_said(tmp_path):
    with pytest.raises(FileExistsError, match="another process"), files.replace_folder(tmp_path / "out") as partial:
        partial.rmdir()


def test_only_new_or_empty_folders_are_accepted(tmp_path):
    files.check_new_folder(tmp_path / "absent")
    files.check_new_folder(tmp_path)
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="is not an empty folder; choose another"):
            files.check_new_folder(taken)
