"""Predictions for a user's own images and videos, as `tools/infer.py` makes them."""
