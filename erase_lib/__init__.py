"""Erase concepts from text-to-image models, and see what an erasure does to everything else."""

import logging
import os
import tempfile
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erase_lib.config import EraseConfig
    from erase_lib.diffusion import generate
    from erase_lib.erasure import Erasure
    from erase_lib.errors import EraseError
    from erase_lib.models import load_pipeline
    from erase_lib.train import erase

__all__ = ["EraseConfig", "EraseError", "Erasure", "erase", "generate", "load_pipeline"]

_HOME = {"EraseConfig": "config", "EraseError": "errors", "Erasure": "erasure"}
_HOME |= {"erase": "train", "generate": "diffusion", "load_pipeline": "models"}

# Beside other work, OpenMP's threads that spin while they wait take five times as long as one; read
# when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# diffusers imports onnxruntime where it is installed, which asks the network and writes into HOME.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if not os.access(os.path.expanduser("~"), os.W_OK):  # Numba would stop, and Matplotlib warn
    for _name in {"NUMBA_CACHE_DIR", "MPLCONFIGDIR"} - set(os.environ):
        os.environ[_name] = tempfile.mkdtemp(prefix="erase-")
# No picture goes through transformers' processors here, so what they say on import is noise.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)


def __getattr__(name: str) -> object:
    """Imported at first use: a sweep and its workers need no PyTorch."""
    if name not in _HOME:
        raise AttributeError(f"module 'erase_lib' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"erase_lib.{_HOME[name]}"), name)
    return value
