"""Writes ``goldens.json``: what transformers' ``apply_chat_template`` makes of the chats by each template.

The test environment has no transformers, so this is run by hand in one that has::

    pip install 'transformers==5.24.*' && python tests/data/chat_templates/make_goldens.py

The date is ``NOW``; a refusal by ``raise_exception`` is an object with its message.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from jinja2 import TemplateError
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent
NOW = datetime(2025, 3, 4, 5, 6, 7)


def rendered(source: str, chat: dict[str, Any], cases: dict[str, Any]) -> str | dict[str, str]:
    """The prompt of a chat, or the message of its refusal."""
    try:
        prompts, _ = chat_template_utils.render_jinja_template(
            [chat["messages"]],
            tools=cases["tools"] if chat.get("has_tools") else None,
            chat_template=source,
            add_generation_prompt=chat.get("add_generation_prompt", True),
            continue_final_message=chat.get("continue_final_message", False),
            **cases["special_tokens"],
            **chat.get("kwargs", {}),
        )
    except TemplateError as error:
        return {"refusal": str(error)}
    prompt: str = prompts[0]
    return prompt


def main() -> None:
    """Render everything."""
    cases = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
    with mock.patch.object(chat_template_utils, "datetime", mock.Mock(now=lambda: NOW)):
        goldens = {
            path.stem: {
                chat["name"]: rendered(path.read_text(encoding="utf-8"), chat, cases) for chat in cases["chats"]
            }
            for path in sorted(HERE.glob("*.jinja"))
        }
    text = json.dumps(goldens, ensure_ascii=False, indent=1) + "\n"
    (HERE / "goldens.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
