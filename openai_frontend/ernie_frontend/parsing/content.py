"""The content of an answer, and the tool calls in it.

Text that is not a call is content, also what began like a call: then with its tags.
"""

from __future__ import annotations

from ernie_frontend.parsing.call_reader import CallReader, NotACallError, ToolCallDelta
from ernie_frontend.parsing.reasoning import Section, Trim

_BEGIN, _END = "<tool_call>", "</tool_call>"
_JSON_SPACES = " \t\n\r"


class ContentParser:
    """Content without calls.

    Args:
        trim: the newlines around the first section and those after calls, which are not part of them.
        is_begun: the answer continues content that has begun.

    Attributes:
        TAGS: the structural tokens that it handles.
        completed_calls: the indices of calls that are complete.
    """

    TAGS: frozenset[str] = frozenset()

    def __init__(self, trim: Trim, *, is_begun: bool = False) -> None:
        self.completed_calls: set[int] = set()
        self._trim = trim
        self._section = Section(trim, is_begun=is_begun)
        self._content: list[str] = []
        self._deltas: list[ToolCallDelta] = []

    @property
    def is_in_call(self) -> bool:
        """Whether the next text belongs to a call."""
        return False

    def begin_section(self, trim: Trim) -> None:
        """Begin a new section, after a tag."""
        self._section = Section(trim)

    def push(self, text: str) -> None:
        """Take the next text."""
        self._push_content(text)

    def push_tag(self, tag: str) -> None:
        """Take the next structural token, one of ``TAGS``."""
        self._push_content(tag)

    def finish(self) -> None:
        """Take the end of the answer."""

    def take(self) -> tuple[str, list[ToolCallDelta]]:
        """Return new content and the new parts of calls."""
        taken = "".join(self._content), self._deltas
        self._content, self._deltas = [], []
        return taken

    def _push_content(self, text: str) -> None:
        self._content.append(self._section.push(text))


class _CallParser(ContentParser):
    """Content with calls."""

    def __init__(self, trim: Trim, *, is_begun: bool = False) -> None:
        super().__init__(trim, is_begun=is_begun)
        self._num_calls = 0  # that have been passed on, at least in part
        self._call: CallReader | None = None
        self._unused: list[str] = []  # text since the beginning of the call: content if it is not one

    @property
    def is_in_call(self) -> bool:
        """Whether the next text belongs to a call."""
        return self._call is not None

    def finish(self) -> None:
        """Take the end of the answer."""
        if self._call is not None:
            self._end_call(self._call)

    def _begin_call(self) -> None:
        self._call = CallReader(self._num_calls)

    def _read_call(self, call: CallReader, text: str) -> str:
        """Take text of the call; return the text after its end."""
        self._unused.append(text)
        try:
            deltas, rest = call.push(text)
        except NotACallError:
            self._give_up()
            return ""
        self._deltas += deltas
        if deltas:
            self._num_calls = call.index + 1
        if call.is_closed:
            self._end_call(call)
        return rest

    def _end_call(self, call: CallReader) -> None:
        """End the call, with whatever there is of it."""
        if not call.is_complete:
            self._give_up()
            return
        self.completed_calls.add(call.index)
        self._call, self._unused = None, []
        self.begin_section(self._trim)

    def _give_up(self) -> None:
        """Turn the text since the beginning of the call into content."""
        text = "".join(self._unused)
        self._call, self._unused = None, []
        self._push_content(text)


class TaggedCalls(_CallParser):
    """Calls between structural tokens.

    Args:
        trim, is_begun: of ``ContentParser``.
        follows_text: whether content may come before the first call; if not, a call after content is content.
    """

    TAGS = frozenset((_BEGIN, _END))

    def __init__(self, trim: Trim, *, is_begun: bool, follows_text: bool) -> None:
        super().__init__(trim, is_begun=is_begun)
        self._follows_text = follows_text
        self._has_content = False
        self._is_after_call = False  # only spaces and the end tag have followed it

    def push(self, text: str) -> None:
        """Take the next text."""
        if self._call is not None:
            text = self._read_call(self._call, text)
        if self._is_after_call:
            text = text.lstrip(_JSON_SPACES)
            self._is_after_call = not text
        if text:
            self._push_content(text)

    def push_tag(self, tag: str) -> None:
        """Take the next structural token, one of ``TAGS``."""
        if tag == _BEGIN:
            self.finish()
            self._is_after_call = False
            if self._follows_text or self.completed_calls or not self._has_content:
                self._unused = [self._section.take_held(), tag]
                self._begin_call()
                return
        elif self._call is not None:
            self._unused.append(tag)
            self._end_call(self._call)
            return
        elif self._is_after_call:
            return
        self._push_content(tag)

    def _end_call(self, call: CallReader) -> None:
        super()._end_call(call)
        self._is_after_call = call.is_complete

    def _push_content(self, text: str) -> None:
        super()._push_content(text)
        self._has_content = self._has_content or bool(self._content[-1])


class JsonCalls(_CallParser):
    """Calls without tags: the whole content is one call, or an array of calls."""

    def __init__(self, trim: Trim, *, is_begun: bool = False) -> None:
        super().__init__(trim, is_begun=is_begun)
        self._is_text = False

    def push(self, text: str) -> None:
        """Take the next text."""
        while text:
            if self._is_text:
                self._push_content(text)
                return
            text = self._skip_separators(text) if self._call is None else self._read_call(self._call, text)

    def finish(self) -> None:
        """Take the end of the answer."""
        super().finish()
        if not self.completed_calls:
            self._give_up()

    def _skip_separators(self, text: str) -> str:
        """Take the characters between calls; return the rest, if a call follows."""
        rest = text.lstrip(_JSON_SPACES + "[,]")
        self._unused.append(text[: len(text) - len(rest)])
        if rest.startswith("{"):
            self._begin_call()
            return rest
        if rest:
            self._unused.append(rest)
            self._give_up()
        return ""

    def _give_up(self) -> None:
        super()._give_up()
        self._is_text = True
