"""A local page to look at trained models: pictures in, drawings out, nothing kept on disk.

Everything the page shows comes from this process: no script, font or figure of another host. A
browser sends pictures as bytes without their names; they are decoded in memory, and known from then
on by a random name. Requests with another host's name in them (DNS rebinding), or sent from another
site's page, are refused.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..errors import UserError
from ..visualization import class_name, draw_difference, label_names
from .comparison import compare
from .drawing import overlay
from .models import DemoModel, TrainedModel
from .pictures import decode, reduced

__all__ = ["MOST_BYTES", "Gallery", "create_app", "serve"]

logger = logging.getLogger(__name__)

#: Of an upload.
MOST_BYTES = 16 * 2**20
# Longest side in pixels of what is predicted and shown; larger pictures are reduced.
_LONGEST = 2048
# Pictures and loaded models that are kept; the one not used for longest goes first.
_PICTURES, _MODELS = 8, 3
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


class NotThere(UserError, KeyError):
    """A request names a picture, a frame or a model that is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


class Picture(NamedTuple):
    image: np.ndarray
    #: What was found in it, by number of the model.
    found: dict[int, dict[str, Any]]


class Gallery:
    """Pictures and models of the page, a few of each in memory; safe with threads.

    Args:
        models: to choose among.
        frames: pictures on disk to choose among.
        load: reads a model; for tests and for overrides of configs.
    """

    def __init__(
        self,
        models: Sequence[TrainedModel],
        frames: Sequence[Path] = (),
        load: Callable[[TrainedModel], DemoModel] = DemoModel.load,
    ):
        self.models, self.frames = list(models), list(frames)
        self._load = load
        self._loaded: OrderedDict[int, DemoModel] = OrderedDict()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._pictures_lock, self._models_lock = threading.Lock(), threading.Lock()

    def add(self, content: bytes, name: str = "The file") -> dict[str, Any]:
        """Take an encoded picture; its name from now on, and its size."""
        whole = decode(content, name)
        image = reduced(whole, _LONGEST)
        token = uuid.uuid4().hex
        with self._pictures_lock:
            self._pictures[token] = Picture(image, {})
            while len(self._pictures) > _PICTURES:
                self._pictures.popitem(last=False)
        (height, width), (h, w) = whole.shape[:2], image.shape[:2]
        note = "" if image is whole else f"{width} x {height} pixels, reduced to {w} x {h}"
        return {"picture": token, "width": w, "height": h, "note": note}

    def add_frame(self, number: int) -> dict[str, Any]:
        """Take one of the frames."""
        if not 0 <= number < len(self.frames):
            raise NotThere(f"There is no frame {number}; there are {len(self.frames)}.")
        path = self.frames[number]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NotThere(f"The frame {path.name} cannot be read: {error.strerror}.") from error
        return self.add(content, path.name)

    def predict(self, token: str, number: int) -> tuple[np.ndarray, dict[str, Any], DemoModel]:
        """A picture, what a model finds in it, and the model."""
        with self._pictures_lock:
            if token not in self._pictures:
                raise NotThere("This picture is no longer in memory; give it again.")
            self._pictures.move_to_end(token)
            picture = self._pictures[token]
        # one at a time: a second network at work makes both slower
        with self._models_lock:
            model = self._model(number)
            if number not in picture.found:
                start = time.perf_counter()
                found = model(picture.image)
                picture.found[number] = {**found, "seconds": time.perf_counter() - start}
        return picture.image, picture.found[number], model

    def _model(self, number: int) -> DemoModel:
        if not 0 <= number < len(self.models):
            raise NotThere(f"There is no model {number}; there are {len(self.models)}.")
        if number not in self._loaded:
            logger.info("Loading %s", self.models[number].name)
            self._loaded[number] = self._load(self.models[number])
            while len(self._loaded) > _MODELS:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(number)
        return self._loaded[number]


def create_app(gallery: Gallery, hosts: Sequence[str] = ()):
    """The page as a Flask application.

    Args:
        gallery: what it shows.
        hosts: names, beside those of the loopback interface, that a browser may call it by.

    Raises:
        UserError: Flask is not installed.
    """
    try:
        from flask import Flask, abort, jsonify, request
        from werkzeug.exceptions import HTTPException
    except ImportError as error:
        raise UserError(
            'The page needs Flask, which is not installed: pip install "deepfuse-d2[demo]".'
        ) from error

    app = Flask(__name__, static_folder="static", static_url_path="/static")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    known_hosts = _LOOPBACK | set(hosts)

    @app.before_request
    def refuse_other_sites():
        host = request.host
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in known_hosts:
            abort(403, "This page is served under its own address alone.")
        origin = request.headers.get("Origin")
        if request.method != "GET" and origin not in (None, f"{request.scheme}://{host}"):
            abort(403, "Requests from pages of other sites are refused.")

    @app.after_request
    def harden(response):
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(UserError)
    def answer_mistake(error):
        return jsonify(error=str(error)), 404 if isinstance(error, NotThere) else 400

    @app.errorhandler(HTTPException)
    def answer_refusal(error):
        message = error.description
        if error.code == 413:
            message = f"The file is larger than {MOST_BYTES // 2**20} MiB; give a smaller one."
        return jsonify(error=message), error.code

    @app.errorhandler(Exception)
    def answer_failure(error):
        logger.error("A request failed", exc_info=error)
        return jsonify(error=f"This failed: {type(error).__name__}. The log says where."), 500

    @app.get("/")
    def index():
        return app.send_static_file("index.html")

    @app.get("/choices")
    def choices():
        return jsonify(
            models=[model.name for model in gallery.models],
            frames=[path.stem.removesuffix("_leftImg8bit") for path in gallery.frames],
        )

    @app.post("/pictures")
    def take_picture():
        return jsonify(gallery.add(request.get_data(cache=False)))

    @app.post("/frames/<int:number>")
    def take_frame(number):
        return jsonify(gallery.add_frame(number))

    @app.post("/drawings")
    def draw():
        asked = request.get_json()
        return jsonify(_draw(gallery, *_checked(asked)))

    return app


def serve(gallery: Gallery, host: str = "127.0.0.1", port: int = 7860):
    """A server of the page, listening but not yet answering; call its `serve_forever`.

    Port 0 takes a free one; `server.port` says which.

    Raises:
        UserError: the address cannot be had.
    """
    app = create_app(gallery, [f"[{host}]" if ":" in host else host])
    import socket

    from werkzeug.serving import make_server

    # werkzeug ends the whole process where a port is taken
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise UserError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another --port."
        ) from error
    with listener:
        return make_server(host, port, app, threaded=True, fd=listener.fileno())


def _checked(asked: Any) -> tuple[str, list[int], float, set[str]]:
    """Picture, models, threshold and layers of a request, or an error that says what is wrong."""
    try:
        token, numbers = str(asked["picture"]), [int(number) for number in asked["models"]]
        threshold, layers = float(asked["threshold"]), {str(x) for x in asked["layers"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            'A drawing needs "picture", "models" (one or two numbers), "threshold" and "layers" '
            '("instances", "semantics").'
        ) from error
    if not 1 <= len(numbers) <= 2:
        raise UserError(f"{len(numbers)} models were asked for; one or two can be shown.")
    if not 0 <= threshold <= 1:
        raise UserError(f"The threshold is {threshold}; give 0 to 1.")
    return token, numbers, threshold, layers


def _draw(
    gallery: Gallery, token: str, numbers: list[int], threshold: float, layers: set[str]
) -> dict[str, Any]:
    panels, results = [], []
    for number in numbers:
        image, found, model = gallery.predict(token, number)
        kept = {key: value for key, value in found.items() if key in ("instances", "labels")}
        if "instances" in kept:
            kept["instances"] = kept["instances"][kept["instances"].scores >= threshold]
        results.append((kept, model.metadata))
        panels.append(
            {
                "title": gallery.models[number].name,
                "image": _encoded(overlay(image, kept, model.metadata, layers)),
                "seconds": round(found["seconds"], 3),
                **_summary(kept, model),
            }
        )
    answer = {"panels": panels, "difference": None, "note": ""}
    if len(results) == 2:
        (first, metadata), (second, other) = results
        compared = compare(first, second, metadata, other)
        if compared is None:
            answer["note"] = "One model finds instances, the other labels pixels: no difference."
        else:
            drawn = draw_difference(image, *compared)
            share = None if compared.pixels is None else round(float(compared.pixels.mean()), 4)
            answer["difference"] = {
                "image": _encoded(drawn),
                "both": len(compared.both),
                "first": len(compared.first),
                "second": len(compared.second),
                "pixels": share,
                "has_instances": "instances" in first and "instances" in second,
            }
    return answer


def _summary(found: dict[str, Any], model: DemoModel) -> dict[str, Any]:
    """How many instances of each class, and what share of the pixels has each."""
    summary: dict[str, Any] = {"instances": None, "semantics": None}
    if "instances" in found:
        kinds = Counter(found["instances"].pred_classes.tolist())
        summary["instances"] = [
            [class_name(model.metadata, kind), count] for kind, count in kinds.most_common()
        ]
    if "labels" in found:
        counts = np.bincount(found["labels"].ravel())
        names = label_names(model.metadata, len(counts))
        shares = sorted(zip(names, counts / counts.sum(), strict=True), key=lambda x: -x[1])
        summary["semantics"] = [
            [name, round(float(share), 4)] for name, share in shares if share >= 0.001
        ]
    return summary


def _encoded(image: np.ndarray) -> str:
    done, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done, f"cannot encode an image of shape {image.shape}"
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
