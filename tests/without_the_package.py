"""Code for a process in which the package cannot be imported; what the process then does comes behind it."""

WITHOUT_THE_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ccsam_hf":
            raise ImportError(f"{name} is hidden from this test")

sys.meta_path.insert(0, Absent())
try:
    import ccsam_hf
except ImportError:
    pass
else:
    raise AssertionError("ccsam_hf can be imported: the test would show nothing")
"""
