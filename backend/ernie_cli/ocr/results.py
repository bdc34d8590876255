"""The output directory of ``ocr``: NAME.json and NAME.md of each page, and all of them as one document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_cli.errors import CommandError
from ernie_cli.ocr.client import Reading, ReadingOptions
from ernie_cli.ocr.pages import Page
from ernie_cli.ocr.tasks import TASKS, read_regions
from ernie_cli.terminal_text import escaped

DOCUMENT = "document"


@dataclass(frozen=True)
class Results:
    """What has been read, on disk, so that an interrupted run goes on where it was.

    A directory holds the results of one task, of this run and of earlier ones.

    Attributes:
        directory: of the output.
        task_name: what was asked about the pages.
        options: how they were read.

    Raises:
        CommandError: the directory is a file, or holds results of another task.
    """

    directory: Path
    task_name: str
    options: ReadingOptions

    def __post_init__(self) -> None:
        if self.directory.exists() and not self.directory.is_dir():
            raise CommandError(f"--output {escaped(str(self.directory))} is a file; give a directory")
        for record in self._records():
            if (task := record["made_of"].get("task")) != self.task_name:
                raise CommandError(
                    f"{escaped(str(self.directory))} has results of --task {task}, such as "
                    f"{escaped(record['page'])}; give another --output for --task {self.task_name}"
                )

    def has(self, page: Page) -> bool:
        """Whether a page was read before, as it is now, and a higher limit of tokens would change nothing."""
        record = self._current(page)
        if record is None:
            return False
        is_cut = record.get("finish_reason") == "length" and record.get("stop_reason") is None
        return not is_cut or record.get("max_tokens", 0) >= self.options.max_tokens

    def why_cut(self, page: Page) -> str | None:
        """Return why the answer about a page that was read is not whole, and the way out; None: it is whole."""
        record = self._current(page)
        return None if record is None else _why_cut(record)

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
            "max_tokens": self.options.max_tokens,
            "made_of": self._origin(page),
        }
        if self.task_name == "spotting":
            record["regions"] = [asdict(region) for region in read_regions(reading.text)]
        self._write(f"{page.name}.md", _marked(record))
        self._write(f"{page.name}.json", _json(record))  # last: it says that the page was read

    def write_document(self, pages: Sequence[Page]) -> None:
        """Write document.md and document.json of all results here, in the order of their names.

        Args:
            pages: those of this run; what was read before they changed is left out.
        """
        changed = {page.name for page in pages if self._current(page) is None}
        records = [record for record in self._records() if record["page"] not in changed]
        texts = [f"<!-- {record['page']} -->\n\n{_marked(record)}" for record in records]
        self._write(f"{DOCUMENT}.md", "\n".join(texts))
        self._write(f"{DOCUMENT}.json", _json(records))

    def _records(self) -> Iterator[dict[str, Any]]:
        """Yield the results of all pages; other files are passed over."""
        for file in sorted(self.directory.rglob("*.json")):
            name = str(file.relative_to(self.directory)).removesuffix(".json")
            record = self._record(name)
            if record is not None and record.get("page") == name:
                yield record

    def _current(self, page: Page) -> dict[str, Any] | None:
        """Return the results of a page as it is now, if there are any."""
        record = self._record(page.name)
        return record if record is not None and record["made_of"] == self._origin(page) else None

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.directory / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_record = isinstance(record, dict) and isinstance(record.get("made_of"), dict)
        return record if is_record else None

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


def _marked(record: Mapping[str, Any]) -> str:
    """Return a page's Markdown, with a line at its end if it is not the whole page."""
    why = _why_cut(record)
    return f"{record['markdown']}\n" + (f"\n> **Cut here:** {why}\n" if why else "")


def _why_cut(record: Mapping[str, Any]) -> str | None:
    if record.get("finish_reason") != "length":
        return None
    if record.get("stop_reason") == "repetition_detected":
        return "the answer repeated itself and was ended (docs/ocr.md, Loops)"
    most, usage = record.get("max_tokens", 0), record.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if isinstance(tokens, int) and tokens < most:
        return f"the context is full after {tokens} tokens; serve with a higher --max-model-len, then --again"
    return f"--max-tokens {most} is reached; run again with a higher one, which reads only such pages"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
