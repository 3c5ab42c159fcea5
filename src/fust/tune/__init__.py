"""Tuning: rows and a base model in, an adapter or new weights in the hub out."""
