"""Serve a local web page to try a model with: samples, reconstructions, neighbours, interpolations.

session.py   answers requests to a model       widgets.py   the page: gradio's widgets around it
server.py    runs the page                     guard.py     decides which requests reach it
"""

from bigbigan.apps.serve.server import VISITORS, serve
from bigbigan.apps.serve.session import ServedModel
from bigbigan.apps.serve.widgets import page

__all__ = ["VISITORS", "ServedModel", "page", "serve"]
