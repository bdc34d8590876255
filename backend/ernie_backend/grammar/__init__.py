"""Structured output: from what an answer must be to masks of the tokens that may come next.

    structured_outputs -> ``sources`` -> Lark text -> ``compiler`` -> ``token_mask``

The grammars are llguidance's (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
"""
