"""What the location defines, one module per step of the data's way: files, trips, zones, then jobs."""
