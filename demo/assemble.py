"""Put the Space together: what lies in demo/, and the package beside it, in one folder that runs by itself.

    python demo/assemble.py outputs/space
    python demo/assemble.py outputs/space --push me/ccsam-demo

A Space installs requirements.txt alone, and the package is on no index: so its source goes along as `ccsam_hf/`.
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi

from ccsam_hf.hub.commit import commit_files, readable_errors

DEMO = Path(__file__).resolve().parent
PACKAGE = DEMO.parent / "src" / "ccsam_hf"
TEMPLATES = DEMO.parent / "hub_cards"
NOT_IN_A_SPACE = ("assemble.py", "benchmark.py", "__pycache__", "*.pyi", ".*")  # gradio writes app.pyi


def assemble(output: Path) -> list[Path]:
    """Write the Space into a folder that does not exist or is empty.

    Returns:
        Its files, relative to it, sorted.

    Raises:
        FileExistsError: the folder has content.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder; choose another, or remove it first")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".space-", dir=output.parent) as directory:
        made = Path(directory) / "space"
        shutil.copytree(DEMO, made, ignore=shutil.ignore_patterns(*NOT_IN_A_SPACE))
        package = made / "ccsam_hf"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        shutil.copytree(TEMPLATES, package / "hub_cards", dirs_exist_ok=True)
        shutil.copy(DEMO.parent / "LICENSE", made)
        if output.exists():
            output.rmdir()
        made.rename(output)
    return sorted(path.relative_to(output) for path in output.rglob("*") if path.is_file())


def push(folder: Path, repo_id: str, public: bool) -> str:
    """Upload an assembled Space in one commit that also deletes what it lacks.

    Returns:
        URL of the commit.

    Raises:
        PermissionError: the Space exists, is public, and `public` is False; or the token may not write to it.
        ConnectionError: the connection broke or there is none.
    """
    api = HfApi()
    with readable_errors(repo_id):
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=not public, exist_ok=True)
        if not public and not api.repo_info(repo_id, repo_type="space").private:
            raise PermissionError(f"{repo_id} exists and is public: choose another Space, or say --public")
        commit = commit_files(
            api,
            repo_id,
            {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()},
            lambda path: path != ".gitattributes",  # the Hub's own
            message="Upload the demo",
            repo_type="space",
        )
    return str(commit)


def main() -> None:
    """Assemble, and push where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--push", metavar="REPO_ID", help="upload it to this Space")
    parser.add_argument("--public", action="store_true", help="create a public Space (default: private)")
    arguments = parser.parse_args()
    if arguments.public and not arguments.push:
        parser.error("--public came without --push; say where to: --push <user or organisation>/<name>")
    try:
        files = assemble(arguments.output)
        size = sum((arguments.output / path).stat().st_size for path in files)
        print(f"{len(files)} files, {size / 1e6:.1f} MB in {arguments.output}")
        if arguments.push:
            print(push(arguments.output, arguments.push, arguments.public))
    except (FileExistsError, PermissionError, ConnectionError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
