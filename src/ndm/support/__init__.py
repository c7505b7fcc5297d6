"""Small helpers of the whole package: shapes, seeded streams, the registry, files, the journal, progress bars."""
