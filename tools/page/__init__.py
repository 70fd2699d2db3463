"""The page on which an erasure is tried without Python: `make page`."""
