"""An OpenAPI document as one self-contained page of HTML, without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

Schema = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; --link: light-dark(#0a58ca, #7db4ff); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
a { color: var(--link); }
code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { background: var(--soft); padding: .7rem 1rem; border-radius: 6px; overflow-x: auto; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .3rem; }
h3 b { display: inline-block; min-width: 3rem; padding: 0 .4rem; margin-right: .5rem; border-radius: 4px;
  background: var(--soft); font-size: 13px; text-align: center; }
h4 { margin: 1rem 0 .2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
@media (min-width: 50rem) { td:nth-child(2) { min-width: 13rem; } }
td:first-child, th:first-child { white-space: nowrap; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def page(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI 3.1 document."""
    info, schemas = document["info"], document["components"]["schemas"]
    title = escape(f"{info['title']} {info['version']}")
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    objects = [_object(name, schema) for name, schema in sorted(schemas.items())]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width'><link rel=icon href=data:,>"
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{_text(info['description'])}"
        " Machine-readable: <a href=openapi.json>openapi.json</a>.</p>"
        f"<h2>Paths</h2>{''.join(operations)}<h2>Objects</h2>{''.join(objects)}</html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f"<h3><b>{method}</b><code>{escape(path)}</code></h3><p>{_text(operation.get('description', ''))}</p>"
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        example = escape(json.dumps(content["example"], indent=2))
        parts.append(f"<h4>Body: {_type(content['schema'])} as {escape(kind)}</h4><pre>{example}</pre>")
    rows = [
        (escape(status), _contents(answer.get("content", {})), _text(answer["description"]))
        for status, answer in operation["responses"].items()
    ]
    return "".join([*parts, "<h4>Answers</h4>", _table(("status", "content", "meaning"), rows)])


def _contents(content: Mapping[str, Any]) -> str:
    return "<br>".join(f"{_type(each.get('schema', {}))} as {escape(kind)}" for kind, each in content.items())


def _object(name: str, schema: Schema) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _type(each),
            _text(each.get("description", "")),
            "yes" * (field in needed),
        )
        for field, each in schema.get("properties", {}).items()
    ]
    description = _text(schema.get("description", ""))
    heading = f"<h3 id={escape(name)}><code>{escape(name)}</code></h3><p>{description}</p>"
    return heading + _table(("field", "type", "meaning", "always"), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [
        "".join(f"<th>{head}" for head in heads),
        *("".join(f"<td>{cell}" for cell in row) for row in rows),
    ]
    return f"<table>{''.join(f'<tr>{line}' for line in lines)}</table>"


def _text(markdown: str) -> str:
    """Return a text in HTML; of Markdown, paragraphs and code are supported."""
    return re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", escape(markdown, quote=False)).replace("\n\n", "<br>")


def _type(schema: Schema) -> str:
    """Return the type in HTML, with links to objects and without null; empty for arbitrary JSON."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href=#{name}>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    kind = escape(schema.get("type", ""))
    members = schema.get("items") or schema.get("additionalProperties")
    return f"{kind} of {_type(members)}" if isinstance(members, dict) and members else kind
