"""Fust: the printing press for AI models."""

__version__ = "0.1.0"
