"""A built data set -> a data set repository on the Hub (`push_built`), private unless the licences were looked at."""

from pathlib import Path

from huggingface_hub import HfApi

from ..hub.commit import commit_files, readable_errors
from .card import redistribution_warning
from .rows import check_complete


def files_of(directory: str | Path) -> dict[str, int]:
    """What a push uploads: path within the repository -> bytes, sorted.

    Raises:
        ValueError: the directory is not a complete build.
    """
    directory = Path(directory)
    check_complete(directory)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in paths}


def push_built(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    licences_checked: bool = False,
    revision: str = "main",
) -> str:
    """Upload a built data set in one commit: interrupted before it, the repository stays what it was.

    Shards of an older build that this one lacks are deleted in the same commit.

    Args:
        directory: the output of `build`.
        repo_id: "<user or organisation>/<name>" of the data set repository; made if it does not exist.
        private: whether a new repository is private. One that exists keeps its visibility; a public one wants False.
        licences_checked: the caller's word that every source may be passed on; a public repository asks for it.
        revision: branch to commit to.

    Returns:
        URL of the commit.

    Raises:
        PermissionError: the repository is public, and `private` is True, or a source does not allow redistribution or
            does not say; or the token may not write to it.
        ConnectionError: the connection broke or there is none; the same call again goes on.
        ValueError: the directory is not a complete build, or `repo_id` is none.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    record = check_complete(Path(directory))
    own = record.get("own", ())  # older builds do not tell
    warning = None if licences_checked else redistribution_warning(record["counts"], own)
    if warning and not private:
        raise PermissionError(f"{warning} Push to a private repository, or say that you checked the licences")
    api = HfApi()
    with readable_errors(repo_id):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        is_private = api.repo_info(repo_id, repo_type="dataset").private
        if not is_private and (private or warning):
            reason = warning or "A push is private if not said otherwise."
            word = "you checked the licences (--licences-checked)" if warning else "it may be public (--public)"
            raise PermissionError(f"{repo_id} is public. {reason} Push to another, or say that {word}")
        commit = commit_files(
            api,
            repo_id,
            {path: Path(directory) / path for path in files_of(directory)},
            lambda path: path.startswith("data/"),
            message="Upload a data set built by ccsam-hf",
            repo_type="dataset",
            revision=revision,
        )
    return str(commit)
