"""The report page: what it shows (`*.sql`), how it is put together (`build.py`) and how it is checked (`check.py`)."""
