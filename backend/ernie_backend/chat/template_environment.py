"""The sandbox that chat templates run in.

It offers what transformers' ``apply_chat_template`` does: ``break`` and ``continue``, the tag ``generation``,
``raise_exception``, ``strftime_now`` and a ``tojson`` of its own. A template that does not come to an end is
cut off: its loops and calls check the clock. Its strings are ``TemplateText``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import sync_do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_eval_context

from ernie_backend.chat.template_text import TemplateText, joined, origins_of, template_written

RENDER_LIMIT_S = 5.0
"""Processor time; thousands of messages take some tens of milliseconds, and other requests wait meanwhile."""
_MOST_REPEATED = 1 << 24
_LARGEST_EXPONENT = 64


class TemplateRefusal(TemplateError):
    """The template has judged the messages and refuses them."""


class _Code(CodeGenerator):
    """Compiles loops to run over ``timed`` of their items, and strings to ``TemplateText``."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        for loop in node.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "timed", [], [], None, None, lineno=loop.lineno)
        super().visit_Template(node, frame)

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802
        value = node.as_const(frame.eval_ctx)
        if type(value) in (str, list, tuple, dict):
            self.write(self._constant(value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:  # noqa: N802
        del frame
        self.write(self._constant(node.data))

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._constant("".join(group))

    def _constant(self, value: object) -> str:
        """Return the expression for a constant, which the environment keeps."""
        constants = cast("TemplateEnvironment", self.environment).constants
        constants.append(template_written(value))
        return f"environment.constants[{len(constants) - 1}]"


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox for one template that bounds loops, calls and large products.

    Attributes:
        constants: strings of the template, alone and in lists and dicts.
    """

    code_generator_class = _Code
    concat = staticmethod(joined)
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        """Offer a template what transformers does."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
        self.filters.update(tojson=_to_json, join=_join)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        self._end_s = 0.0
        self.constants: list[Any] = []
        self.filters["timed"] = self.timed

    def start_clock(self) -> None:
        """Begin to render: it is cut off after ``RENDER_LIMIT_S``."""
        self._end_s = time.thread_time() + RENDER_LIMIT_S

    def timed(self, items: Iterable[object]) -> Iterator[object]:
        """Yield the items, as long as there is time."""
        for item in items:
            self._check_time()
            yield item

    def call(self, context: Context, called: Any, /, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        """Call a function or macro of the template, if there is time."""
        self._check_time()
        return super().call(context, called, *arguments, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401
        """Return the sandbox's formatting in place of a method ``format`` or ``format_map`` of a string."""
        wrapped = super().wrap_str_format(value)
        text = getattr(value, "__self__", None)
        if wrapped is None or not isinstance(text, TemplateText):
            return wrapped

        def formatted(*arguments: Any, **named: Any) -> str:  # noqa: ANN401
            def method(marked: str) -> str:
                sandboxed = super(TemplateEnvironment, self).wrap_str_format(getattr(marked, value.__name__))
                return cast("Callable[..., str]", sandboxed)(*arguments, **named)

            return text.formatted(method)

        return formatted

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Multiply, unless the result alone would take the machine's time or memory."""
        if operator == "**" and isinstance(right, int) and right > _LARGEST_EXPONENT:
            raise OverflowError(f"the exponent {right} is over {_LARGEST_EXPONENT}")
        for repeated, count in ((left, right), (right, left)):
            if isinstance(repeated, str | list | tuple) and len(repeated) * count > _MOST_REPEATED:
                raise OverflowError(f"a repetition is longer than {_MOST_REPEATED}")
        return super().call_binop(context, operator, left, right)

    def _check_time(self) -> None:
        if time.thread_time() > self._end_s:
            raise TimeoutError(f"it did not finish within {RENDER_LIMIT_S:g} s")


class _GenerationTag(Extension):
    """Renders the content of ``{% generation %}``, which marks answers for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - not assigned to, and the base class has no ClassVar

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the content in its own scope."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON that, unlike that of Jinja's own filter, escapes no characters of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@pass_eval_context
def _join(
    context: EvalContext, value: Iterable[Any], d: object = "", attribute: str | int | None = None
) -> str:
    """Join as Jinja's own filter does, whose own separator would forget what the template wrote."""
    separator = str(d)
    return sync_do_join(context, value, TemplateText(separator, origins_of(separator)), attribute)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
