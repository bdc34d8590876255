"""Parsers of answers: reasoning, content and tool calls in the text of a model. Pure, and incremental."""
