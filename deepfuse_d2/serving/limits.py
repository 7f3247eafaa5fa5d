"""What a client may ask for, and what is wrong with what it sent, in one sentence and a status."""

import asyncio
import io
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import HTTPException, Request
from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

__all__ = ["FORMATS", "Limits", "Reader", "check_image"]

#: Formats of Pillow that are decoded; others are not even looked at (some start programs).
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")


@dataclass(frozen=True)
class Limits:
    """Of one server.

    Args:
        bytes: of an image file.
        pixels: of an image, by its header.
        queue: images that may wait for a process; more are refused with 429.
        held: bytes of all images that are being read; more are refused with 429.
        connections: at once; more are refused with 503.
        read: seconds that a client has to send an image, and to send the head of a request.
        answer: seconds from there to the answer.
    """

    bytes: int = 20 * 2**20
    pixels: int = 64 * 10**6
    queue: int = 64
    held: int = 512 * 2**20
    connections: int = 256
    read: float = 15.0
    answer: float = 60.0


class _InMemory(MultiPartParser):
    """Nothing of a client gets onto the disk; the size is limited as it is read."""

    spool_max_size = sys.maxsize


class Reader:
    """Reads images out of requests, and knows how many bytes are held meanwhile."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.held = 0
        Image.init()  # else some formats are not known by name

    async def read(self, request: Request) -> bytes:
        """The file in a request: its body, or the first file of a form.

        Raises:
            HTTPException: there is none, or it is too large or too slow.
            starlette's ClientDisconnect: the client is gone.
        """
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.bytes + 2**16:
            raise self._too_large()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        chunks = _Counted(self, request)
        try:
            if kind == "multipart/form-data":
                content = await asyncio.wait_for(self._form(request, chunks), self._limits.read)
            else:
                content = await asyncio.wait_for(_joined(chunks), self._limits.read)
        except asyncio.TimeoutError:
            raise HTTPException(
                408, f"The image did not arrive within {self._limits.read:g} seconds."
            ) from None
        finally:
            self.held -= chunks.count
        if not content:
            raise HTTPException(
                400, "The request holds no image; send one as the body, or as a file of a form."
            )
        if len(content) > self._limits.bytes:
            raise self._too_large()
        return content

    async def _form(self, request: Request, chunks: "_Counted") -> bytes:
        parser = _InMemory(request.headers, chunks.stream(), max_files=1, max_fields=16)
        try:
            form = await parser.parse()
        except FormParserError as error:  # of starlette before 1, which leaves it as it comes
            raise HTTPException(400, "The form cannot be read: no multipart data.") from error
        except (MultiPartException, KeyError) as error:
            message = getattr(error, "message", "it names no boundary")
            raise HTTPException(400, f"The form cannot be read: {message}.") from error
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        content = await files[0].read() if files else b""
        await form.close()
        return content

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"The image has more than {self._limits.bytes} bytes, the limit of this server."
        )

    def _take(self, count: int, size: int) -> None:
        """Count bytes that came in, of a request that now has `size`."""
        self.held += count
        if size > self._limits.bytes + 2**16:  # with what a form adds
            raise self._too_large()
        if self.held > self._limits.held:
            raise HTTPException(
                429, "Too many images are on their way; try again.", {"Retry-After": "1"}
            )


class _Counted:
    """The body of a request, counted as it comes in."""

    def __init__(self, reader: Reader, request: Request):
        self._reader, self._request, self.count = reader, request, 0

    async def stream(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._request.stream():
            self.count += len(chunk)
            self._reader._take(len(chunk), self.count)
            yield chunk


async def _joined(chunks: _Counted) -> bytes:
    return b"".join([chunk async for chunk in chunks.stream()])


def check_image(content: bytes, limits: Limits) -> None:
    """Look at the header of a file, before anybody decodes it.

    Raises: HTTPException: it is no image, or one with too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise HTTPException(
            415, "This is no image that is known; PNG, JPEG, WebP, TIFF, BMP and GIF are."
        ) from None
    except Image.DecompressionBombError:
        width, height = sys.maxsize, 1
    except Exception as error:  # whatever a parser of somebody else's bytes may raise
        raise HTTPException(
            422, f"The header of the image is damaged: {str(error).rstrip('.')}."
        ) from error
    if width * height > limits.pixels:
        raise HTTPException(
            413, f"The image has more than {limits.pixels} pixels, the limit of this server."
        )
