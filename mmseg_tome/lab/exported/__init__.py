"""`benchmark-export`: exported networks in every runtime, stock and merged."""
