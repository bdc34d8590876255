"""The output directory of ``ocr``: NAME.json and NAME.md of each page, and all of them as one document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_cli.errors import CommandError
from ernie_cli.ocr.client import Reading, ReadingOptions
from ernie_cli.ocr.pages import Page
from ernie_cli.ocr.tasks import TASKS, read_regions

DOCUMENT = "document"


@dataclass(frozen=True)
class Results:
    """What has been read, on disk, so that an interrupted run goes on where it was.

    Attributes:
        directory: of the output.
        task_name: what was asked about the pages.
        options: how they were read.
    """

    directory: Path
    task_name: str
    options: ReadingOptions

    def has(self, page: Page) -> bool:
        """Whether a page was read before, as it is now and with the same options."""
        record = self._record(page)
        return record is not None and record.get("made_of") == self._origin(page)

    def add(self, page: Page, reading: Reading) -> None:
        """Write the results of a page that was read."""
        markdown = TASKS[self.task_name].to_markdown(reading.text)
        record: dict[str, Any] = {
            "page": page.name,
            "text": reading.text,
            "markdown": markdown,
            "model": reading.model,
            "finish_reason": reading.finish_reason,
            "stop_reason": reading.stop_reason,
            "usage": reading.usage,
            "made_of": self._origin(page),
        }
        if self.task_name == "spotting":
            record["regions"] = [asdict(region) for region in read_regions(reading.text)]
        self._write(f"{page.name}.md", markdown + "\n")
        self._write(f"{page.name}.json", _json(record))  # last: it says that the page was read

    def write_document(self, pages: Sequence[Page]) -> None:
        """Write document.md and document.json of all pages that were read, in their order."""
        records = list(self._records(pages))
        texts = [f"<!-- {record['page']} -->\n\n{record['markdown']}\n" for record in records]
        self._write(f"{DOCUMENT}.md", "\n".join(texts))
        self._write(f"{DOCUMENT}.json", _json(records))

    def _records(self, pages: Sequence[Page]) -> Iterator[dict[str, Any]]:
        for page in pages:
            record = self._record(page)
            if record is not None and record.get("made_of") == self._origin(page):
                yield record

    def _record(self, page: Page) -> dict[str, Any] | None:
        try:
            record = json.loads((self.directory / f"{page.name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _origin(self, page: Page) -> dict[str, Any]:
        """Return what a page's results depend on, as far as it can be told without the server."""
        try:
            status = page.source.stat()
        except OSError:
            return {}
        return {
            "file": page.source.name,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "task": self.task_name,
            "max_tokens": self.options.max_tokens,
            "dpi": None if page.number is None else self.options.dpi,
        }

    def _write(self, name: str, content: str) -> None:
        """Write a file as a whole or not at all."""
        path = self.directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.new")
            new.write_text(content, encoding="utf-8")
            new.replace(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}; choose another --output") from None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
