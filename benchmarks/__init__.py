"""What the platform costs, as ratios: against a limit, and against what a user would pick instead.

`./codeloc bench` measures all of it on one machine in one run, side by side, and writes RESULTS.md. `table` holds the
rows, `workplace` what is measured with; each other module measures one kind of thing and returns its rows.
`programs/` is run in other environments than this one's: a location's, or that of plain Dagster.
"""
