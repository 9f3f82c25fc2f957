"""The analytics team's code location: marts from ingestion's tables."""
