"""What commands do once their command lines are read; imports torch and the mm stack."""

from mmseg_tome import compat  # noqa: F401  before anything of the mm packages
