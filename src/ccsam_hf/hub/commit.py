"""Files -> one commit of a repository on the Hub; errors of the Hub and of the connection that say what to do."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError


def commit_files(
    api: HfApi,
    repo_id: str,
    contents: Mapping[str, Path | bytes],
    is_stale: Callable[[str], bool],
    *,
    message: str,
    repo_type: str = "model",
    revision: str = "main",
) -> CommitInfo:
    """Put files into a repository that exists, in one commit on what is there now: whole or not at all.

    Args:
        api: with the token.
        repo_id: "<user or organisation>/<name>".
        contents: path within the repository -> file on disk, or the content itself.
        is_stale: whether a file of the repository, at this path, goes where it is not in `contents`.
        message: title of the commit.
        repo_type: "model", "dataset" or "space".
        revision: branch to commit to.
    """
    before = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    there = [each.rfilename for each in before.siblings]
    return api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(path, content) for path, content in contents.items()),
            *(CommitOperationDelete(path) for path in there if path not in contents and is_stale(path)),
        ],
        commit_message=message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=before.sha,
    )


@contextmanager
def readable_errors(repo_id: str) -> Iterator[None]:
    """For the code of a push in one commit.

    Raises:
        PermissionError: the Hub got no valid token, or the token may not write to the repository.
        ConnectionError: the connection broke or there is none.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses for another reason.
    """
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise PermissionError(
                f"the Hub got no valid token and refuses {repo_id}: log in with `hf auth "
                f"login`, or set HF_TOKEN ({error.server_message or status})"
            ) from error
        if status == 403:
            raise PermissionError(
                f"the token may not write to {repo_id}: use one with write access to it "
                f"({error.server_message or status})"
            ) from error
        raise
    except (HTTPError, RuntimeError) as error:  # of the connection, of an upload
        reason = f"{error} {error.__cause__ or ''}".strip() or type(error).__name__
        raise ConnectionError(
            f"the push to {repo_id} was interrupted ({reason}); the repository is as it was, or complete: push again, "
            "and what was uploaded is not sent twice"
        ) from error
