"""File headers of models and datasets, and the GGUF writer."""

from fust.formats.gguf import GGUFHeader, GGUFTensor, read_gguf
from fust.formats.safetensors import SafetensorsHeader, SafetensorsTensor, read_safetensors

__all__ = [
    "GGUFHeader",
    "GGUFTensor",
    "SafetensorsHeader",
    "SafetensorsTensor",
    "read_gguf",
    "read_safetensors",
]
