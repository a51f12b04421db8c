"""Serving: a page and a JSON API over one model, one queue and one sampling thread.

Only `create_app`, `run` and `Metrics` need FastAPI, uvicorn and prometheus-client, when called:
`pip install 'keras-mdm[serve]'`.
"""

from keras_mdm.serving.app import create_app
from keras_mdm.serving.exports import ExportPainter, find_export
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.painting import Painter, painter_of
from keras_mdm.serving.queue import SamplingQueue
from keras_mdm.serving.server import run

__all__ = [
    "ExportPainter",
    "Limits",
    "Painter",
    "SamplingQueue",
    "create_app",
    "find_export",
    "painter_of",
    "run",
]
