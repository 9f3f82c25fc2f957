"""The platform's file server, on loopback: serves the sample months as TLC's server serves the real ones.

Starlette's static files, which the webserver brings along: ETags, Last-Modified, conditional requests.
"""

import os

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount("/", StaticFiles(directory=os.environ["CODELOC_SERVED"]))])
