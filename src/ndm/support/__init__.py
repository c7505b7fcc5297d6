"""Small helpers for the whole package: shapes, random streams, registries, files, the journal, progress bars."""
