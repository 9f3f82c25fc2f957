"""The platform's file server, on loopback: the locations' reports, and the sample months as TLC serves the real ones.

Starlette's static files, which the webserver brings along: ETags, Last-Modified, conditional requests.
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from codeloc.seed import REPORT


def to_the_report(_request: Request) -> RedirectResponse:
    """The bare address leads to the report."""
    return RedirectResponse(f"/reports/{REPORT}")


app = Starlette(
    routes=[
        Route("/", to_the_report),
        Mount("/", StaticFiles(directory=os.environ["CODELOC_SERVED"])),
    ]
)
