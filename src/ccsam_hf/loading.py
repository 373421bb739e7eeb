"""Where a model was loaded from and what lies beside it (`ModelSource`), and one lock around every load of ours.

A model's folder or Hub repository also holds its processor, its card and, in the folder `grounder`, its text grounder.
Whatever looks for them asks a `ModelSource`, so that folder, Hub id, subfolder, commit, cache and token are those of
the weights.
"""

import shutil
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from .configuration_ccsam import HUB_ARGUMENTS

GROUNDER_FOLDER = "grounder"  # inside the folder or repository of a model

# transformers changes `PreTrainedModel.tie_weights` for the whole process while it loads a model: two threads that
# load at once can leave it changed for good, after which every load lacks its tied tensors.
LOAD_LOCK = threading.RLock()


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies.

    Args:
        name: its folder, or the id of its Hub repository.
        arguments: those of `from_pretrained` that say where it is found, of `HUB_ARGUMENTS`. They may hold a token:
            they are neither shown nor pickled.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, name: str | Path, **kwargs: Any) -> "ModelSource":
        """The source of `from_pretrained(name, **kwargs)`; of a Hub repository at the commit that is there now."""
        source = cls(str(name), {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None})
        commit = extract_commit_hash(source.find(CONFIG_NAME), None)
        return replace(source, arguments={**source.arguments, "revision": commit}) if commit else source

    @property
    def base_model(self) -> str:
        """What a card calls it: the id, or the name of the folder."""
        return Path(self.name).resolve().name if Path(self.name).is_dir() else self.name

    def find(self, path: str) -> str | None:
        """A file beside the config, downloaded where it lies on the Hub; None where there is none."""
        return cached_file(self.name, path, _raise_exceptions_for_missing_entries=False, **self.arguments)

    @property
    def grounder(self) -> "ModelSource | None":
        """The grounder beside the model; None where there is none."""
        folders = [self.arguments.get("subfolder"), GROUNDER_FOLDER]
        inside = "/".join(folder for folder in folders if folder)
        source = replace(self, arguments={**self.arguments, "subfolder": inside})
        return source if source.find(CONFIG_NAME) else None

    def copy_to(self, folder: str | Path) -> None:
        """Copy all files of the source into a folder that does not exist."""
        arguments = dict(self.arguments)
        subfolder = arguments.pop("subfolder", None) or "."
        root = self.name
        if not Path(root).is_dir():
            root = snapshot_download(root, allow_patterns=None if subfolder == "." else f"{subfolder}/*", **arguments)
        shutil.copytree(Path(root) / subfolder, folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": {key: self.arguments[key] for key in self.arguments if key != "token"}}


__all__ = ["GROUNDER_FOLDER", "LOAD_LOCK", "ModelSource"]
