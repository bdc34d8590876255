"""A web server of pictures and videos on loopback, and the pictures that tests send."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from support.media import image_file


@dataclass(frozen=True)
class Served:
    """What is at a path; without a content type none is sent."""

    content: bytes
    content_type: str | None = None


@contextmanager
def file_server(files: Mapping[str, Served]) -> Iterator[str]:
    """Serve files by their path, such as ``/a.png``; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(self.path)
            self.send_response(200 if found else 404)
            if found and found.content_type:
                self.send_header("Content-Type", found.content_type)
            self.send_header("Content-Length", str(len(found.content) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(found.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def image(width: int, height: int, mode: str = "RGB", form: str = "PNG", color: Any = None) -> bytes:
    """Return a picture with something on it, or all of one colour."""
    picture = Image.new(mode, (width, height), color if color is not None else 0)
    if color is None and mode != "I;16":
        ImageDraw.Draw(picture).line((0, 0, width, height), fill=1 if mode == "P" else "white", width=2)
    return image_file(picture, form)


def page(number: int, width: int = 280, height: int = 392) -> bytes:
    """Return a page of text, as JPEG."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for line in range(10, height - 20, 24):
        draw.text((10, line), f"page {number}, line {line}", fill="black")
    return image_file(picture, "JPEG")


def data_url(content: bytes, kind: str = "image/png") -> str:
    """Return content as a ``data:`` URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def video(frames: int = 48, rate: int = 24, size: int = 56) -> bytes:
    """Return an MP4 of a square that grows brighter."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size, size, 3), 255 * number // frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return out.getvalue()
