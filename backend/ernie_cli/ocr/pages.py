"""The pages to be read: image files, and the pages of PDF files."""

from __future__ import annotations

import base64
import io
import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ernie_cli.errors import CommandError
from ernie_cli.terminal_text import escaped

_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
_PDF = ".pdf"
_POINTS_PER_INCH = 72


class UnreadablePage(Exception):
    """A page that cannot be made a picture; the message says why."""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        source: the file.
        name: where its results go, below the output directory, without their suffixes.
        number: of the page in a PDF, from 1; None: the file is an image, or a PDF without readable pages.
    """

    source: Path
    name: str
    number: int | None = None

    def to_url(self, dpi: int) -> str:
        """Return the picture as a ``data:`` URL.

        Args:
            dpi: pixels per inch of a PDF's page.

        Raises:
            UnreadablePage: there is no picture.
        """
        try:
            if self.number is not None:
                return _data_url(_rendered(self.source, self.number, dpi), "image/png")
            content = self.source.read_bytes()
        except OSError as error:
            raise UnreadablePage(f"it cannot be read: {error.strerror}") from None
        if not content:
            raise UnreadablePage("the file is empty")
        if self.source.suffix.lower() == _PDF:
            raise UnreadablePage("it is not a PDF with pages that can be read without a password")
        # The server looks at the content, so a wrong suffix does no harm.
        return _data_url(content, mimetypes.types_map.get(self.source.suffix.lower(), "image/png"))


def find_pages(paths: Sequence[Path]) -> list[Page]:
    """Return the pages in files and directories, those of a directory in the order of their names.

    Raises:
        CommandError: there is none, a path does not exist, or a PDF needs a package that is missing.
    """
    pages = [page for path in paths for page in _pages_below(path)]
    if not pages:
        known = ", ".join(sorted((*_SUFFIXES, _PDF)))
        raise CommandError(f"no page in {', '.join(map(str, paths))}; pages are files with {known}")
    first_of: dict[str, Page] = {}
    for page in pages:
        first = first_of.setdefault(page.name, page)
        if first is not page:
            raise CommandError(
                f"{escaped(str(first.source))} and {escaped(str(page.source))} have the same name, so their "
                "results would overwrite each other; give each once, or the directory above them"
            )
    return pages


def _pages_below(path: Path) -> Iterator[Page]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in (*_SUFFIXES, _PDF) and file.is_file():
                yield from _pages_of(file, str(file.relative_to(path)))
    elif path.is_file():
        yield from _pages_of(path, path.name)
    else:
        raise CommandError(f"{path} does not exist; give a file or a directory of pages")


def _pages_of(file: Path, name: str) -> Iterator[Page]:
    if file.suffix.lower() != _PDF:
        yield Page(file, name)
        return
    pdfium = _pdfium(file)
    try:
        document = pdfium.PdfDocument(file)
    except pdfium.PdfiumError:
        yield Page(file, name)
        return
    number = len(document)
    document.close()
    width = max(4, len(str(number)))
    for each in range(1, number + 1):
        yield Page(file, f"{name}-{each:0{width}}", each)


def _rendered(file: Path, number: int, dpi: int) -> bytes:
    """Return a page of a PDF as PNG."""
    pdfium = _pdfium(file)
    try:
        document = pdfium.PdfDocument(file)
        try:
            picture = document[number - 1].render(scale=dpi / _POINTS_PER_INCH).to_pil()
        finally:
            document.close()
    except pdfium.PdfiumError as error:
        raise UnreadablePage(f"PDFium cannot draw it: {error}") from None
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _pdfium(file: Path) -> ModuleType:
    try:
        import pypdfium2
    except ImportError:
        raise CommandError(f"{file} needs pypdfium2; install it: pip install 'ernie-triton[pdf]'") from None
    module: ModuleType = pypdfium2
    return module


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
