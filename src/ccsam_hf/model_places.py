"""A folder or Hub id -> said at once where there is nothing to load, before the Hub is asked again and again."""

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

PATIENCE_S = 3.0  # for a connection to the Hub


def check_place(name: str | Path, **kwargs: Any) -> dict[str, Any]:
    """Refuse a folder that is not there, and a repository that is neither within reach nor in the cache.

    A name is taken for a folder unless it can be the id of a repository, "name" or "owner/name", and no folder "owner"
    lies here.

    Args:
        name: folder or repository id.
        kwargs: those of `from_pretrained`; `cache_dir`, `local_files_only`, `revision` and `subfolder` are read.

    Returns:
        Further arguments for `from_pretrained`: `local_files_only` where only the cache can answer, else none.

    Raises:
        FileNotFoundError: there is nothing to load.
    """
    if Path(name).is_dir():
        return {}
    if not is_repository_id(name):
        raise FileNotFoundError(f"no folder {name}; expected a folder with a model, or the id of a Hub repository")
    offline = kwargs.get("local_files_only") or constants.HF_HUB_OFFLINE
    if not offline and reach_hub():
        return {}
    path = Path(kwargs.get("subfolder") or "") / "config.json"
    cached = try_to_load_from_cache(
        str(name), path.as_posix(), cache_dir=kwargs.get("cache_dir"), revision=kwargs.get("revision")
    )
    if not isinstance(cached, str):
        why = "was not to be asked" if offline else "cannot be reached"
        raise FileNotFoundError(f"no folder {name}; for a repository of that name the Hub {why}, and no copy is here")
    return {"local_files_only": True}


def is_repository_id(name: str | Path) -> bool:
    """Whether a name that is no folder can be the id of a repository."""
    if isinstance(name, Path) or os.path.isabs(name) or Path(name).parent.parts and Path(name).parent.is_dir():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def reach_hub() -> bool:
    """Whether the Hub's server takes a connection; true without a trial where a proxy stands between."""
    if getproxies():
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


__all__ = ["check_place"]
