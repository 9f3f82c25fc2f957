"""The platform's file server, on loopback: the locations' reports, and the sample months as TLC serves the real ones.

Starlette's static files, which the webserver brings along: ETags, Last-Modified, conditional requests.
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from codeloc.seed import REPORT

_REPORT_PATH = f"/reports/{REPORT}"


def to_the_report(_request: Request) -> RedirectResponse:
    """The bare address leads to the report."""
    return RedirectResponse(_REPORT_PATH)


def not_found(request: Request, _error: Exception) -> PlainTextResponse:
    """The report is looked for before it was ever made: say what makes it."""
    if request.url.path == _REPORT_PATH:
        return PlainTextResponse("There is no report yet. It is made as soon as trips are loaded.\n", 404)
    return PlainTextResponse("Not Found", 404)


app = Starlette(
    routes=[
        Route("/", to_the_report),
        Mount("/", StaticFiles(directory=os.environ["CODELOC_SERVED"])),
    ],
    exception_handlers={404: not_found},
)
