"""The bodies of ``POST /tokenize`` and ``POST /detokenize``, in vLLM's form."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import TokenIds


class TokenizeRequest(ChatRequest):
    """A raw prompt, or a chat request, of which the fields that do not change its prompt have no effect."""

    prompt: str | None = Field(None, description="a raw prompt, instead of messages")
    add_special_tokens: bool | None = Field(
        None, description="without effect: the tokenizer adds none, the chat template writes them"
    )
    return_token_strs: bool | None = Field(None, description="add the text of each token")


class DetokenizeRequest(BaseModel):
    """Token ids to turn into text."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, description="name of a served model; any other goes to the default model")
    tokens: TokenIds = Field(description="token ids")
