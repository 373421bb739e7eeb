"""What the Hub and the connection to it raise -> errors that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, HTTPError


@contextmanager
def readable_errors(repo_id: str) -> Iterator[None]:
    """For the code of a push in one commit.

    Raises:
        PermissionError: the Hub knows no token, or one that may not write to the repository.
        ConnectionError: the connection broke or there is none.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses for another reason.
    """
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise PermissionError(
                f"the Hub knows no token, or not the one it got, and so refuses {repo_id}: log in with `hf auth "
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
