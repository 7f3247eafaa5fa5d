"""The addresses of the server, and what is answered there."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from ..errors import PredictionError, UserError
from ..version import __version__
from .answers import JSON, PNG
from .limits import Limits, Reader, check_image
from .metrics import Metrics
from .pool import Pool, Task

__all__ = ["build_app"]

Form = Literal["rle", "polygons", "boxes", "png"]
Threshold = Annotated[
    float, Query(ge=0, le=1, allow_inf_nan=False, description="lowest score of an instance")
]

# nobody reads it: the client is gone
_GONE = 499
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "What the model finds", "content": {JSON: {}, PNG: {}}},
    400: {"description": "No image in the request, or a wrong parameter"},
    404: {"description": "No model of this name"},
    408: {"description": "The image came too slowly"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "No image, or of a format that is not known"},
    422: {"description": "A damaged image"},
    429: {"description": "Too many images wait; try again"},
    500: {"description": "Three processes died of this image"},
    504: {"description": "No answer in time"},
}


def build_app(
    pool: Pool, names: Sequence[str], labels: Mapping[str, Any], limits: Limits, metrics: Metrics
) -> FastAPI:
    """Return the application.

    Args:
        names: of the models; the first is the one at /predict.
        labels: of each, names of its classes.
    """
    app = FastAPI(
        title="deepfuse_d2",
        version=__version__,
        description="Post an image, get what a model finds in it.",
    )
    reader = Reader(limits)

    @app.exception_handler(RequestValidationError)
    async def one_sentence(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}."}, 400)

    async def answered(request: Request, name: str, form: str, threshold: float) -> Response:
        if name not in names:
            raise HTTPException(404, f"No model has this name; there are: {', '.join(names)}.")
        _check_queue(pool, limits)
        content = await reader.read(request)
        check_image(content, limits)
        _check_queue(pool, limits)
        task = Task(name, content, form, threshold)
        pool.submit(task)
        kind, body = await _answer(task, request, limits.answer)
        return Response(body, media_type=kind)

    async def counted(request: Request, name: str, form: str, threshold: float) -> Response:
        # names of a client's making would fill the memory
        label, start = name if name in names else "", time.perf_counter()
        status = 500
        try:
            response = await answered(request, name, form, threshold)
            status = response.status_code
            metrics.seconds.labels(label).observe(time.perf_counter() - start)
            return response
        except ClientDisconnect:
            status = _GONE
            return Response(status_code=_GONE)
        except HTTPException as error:
            status = error.status_code
            # what is left of the body is not read; the connection would be out of step
            error.headers = {**(error.headers or {}), "Connection": "close"}
            raise
        finally:
            metrics.requests.labels(label, status).inc()

    @app.post("/predict", openapi_extra=_BODY, responses=_ANSWERS, response_class=Response)
    async def predict(request: Request, output: Form = "rle", threshold: Threshold = 0.0):
        """Predict an image with the first model.

        The image is the body, or a file of a form. Masks come as COCO's run lengths, as polygons or
        not at all, or all in a PNG.
        """
        return await counted(request, names[0], output, threshold)

    @app.post(
        "/models/{name}/predict", openapi_extra=_BODY, responses=_ANSWERS, response_class=Response
    )
    async def predict_by(
        request: Request, name: str, output: Form = "rle", threshold: Threshold = 0.0
    ):
        """Predict an image with the model of that name."""
        return await counted(request, name, output, threshold)

    @app.get("/models")
    async def models() -> dict[str, Any]:
        """Names of the models and of their classes."""
        kinds = ("thing_classes", "stuff_classes")
        return {
            name: {kind: labels[name][kind] for kind in kinds if labels[name].get(kind)}
            for name in names
        }

    @app.get("/health")
    async def health() -> Response:
        """200 while a process is ready."""
        ready = pool.ready > 0
        state = {"status": "ready" if ready else "not ready", "workers": pool.ready}
        return JSONResponse(state, 200 if ready else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return app


def _check_queue(pool: Pool, limits: Limits) -> None:
    if pool.waiting >= limits.queue:
        raise HTTPException(
            429,
            f"{limits.queue} images wait already; try again in a moment.",
            {"Retry-After": "1"},
        )


async def _answer(task: Task, request: Request, seconds: float) -> tuple[str, bytes]:
    """What the pool makes of a task, while the client is there and has time."""
    found: asyncio.Future[Any] = asyncio.wrap_future(task.future)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({found, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if found.done():
            return found.result()
        if gone.done():
            raise ClientDisconnect
        raise HTTPException(504, f"There was no answer within {seconds:g} seconds.")
    except PredictionError as error:
        raise HTTPException(500, str(error)) from error
    except UserError as error:  # of this image
        raise HTTPException(422, str(error)) from error
    except RuntimeError as error:
        raise HTTPException(500, "The prediction failed.") from error
    finally:
        # a task that no process has yet is not done for nobody
        found.cancel()
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
