"""The `codeloc` command: runs the whole platform on one machine, and the daily work around it."""
