"""Erase concepts from text-to-image diffusion models, and see what an erasure does to everything
else."""

from erase_lib.config import EraseConfig
from erase_lib.diffusion import generate
from erase_lib.erase import erase
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.models import load_pipeline

__all__ = ["EraseConfig", "EraseError", "Erasure", "erase", "generate", "load_pipeline"]
