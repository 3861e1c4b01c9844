"""SegFormer++ token merging for MMSegmentation and MMPose (arXiv 2405.14467)."""

__version__ = "0.1.0"
