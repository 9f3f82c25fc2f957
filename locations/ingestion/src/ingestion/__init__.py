"""The ETL team's code location: TLC's files into the warehouse's raw tables."""
