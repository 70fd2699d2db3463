"""Everything that builds the shipped data and the embedded model; nothing here is imported by
erase_lib."""
