"""What every file asks before it begins: is the value one of the accepted, is the optional library there."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


def check_choice(name: str, value: str, accepted: Iterable[str]) -> str:
    """The value, or ValueError with the accepted ones, and the nearest of them, where it is not among them."""
    accepted = list(accepted)
    if value not in accepted:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(accepted)}{suggest(value, accepted)}")
    return value


def suggest(value: str, accepted: Iterable[str]) -> str:
    """`; did you mean "..."?` for the nearest accepted value, or nothing where none is near."""
    near = difflib.get_close_matches(str(value), list(accepted), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def import_extra(name: str, extra: str, purpose: str) -> ModuleType:
    """Import a library that an extra of the package installs.

    Args:
        name: of the module, such as "pydicom" or "highdicom.seg".
        extra: of `pip install ccsam-hf[...]`.
        purpose: begins the error, such as "reading DICOM files".

    Raises:
        ImportError: the library cannot be imported, with the command that installs it.
    """
    try:
        importlib.import_module(name.partition(".")[0])
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise ImportError(f'{purpose} needs {missing}: pip install "ccsam-hf[{extra}]"') from error


__all__ = ["check_choice", "import_extra", "suggest"]
