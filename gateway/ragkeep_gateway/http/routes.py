"""Every route of the HTTPS edge: its path, the RPC whose access rule it has, and how it tells errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragkeep_gateway.http.chat import Chat
from ragkeep_gateway.http.errors import body_of, openai_body_of
from ragkeep_gateway.http.exchange import ErrorBody, Exchange
from ragkeep_gateway.http.openai import OpenAI

if TYPE_CHECKING:
    from ragkeep_gateway.service import RagService

Handler = Callable[[Exchange, dict[str, Any]], Awaitable[None]]
OPENAPI_PATH = "/openapi.json"


@dataclass(frozen=True, slots=True)
class Route:
    """Who may ask it is said by the contract, for the RPC: nothing of HTTP decides on roles."""

    verb: str  # GET or POST; a POST has a JSON body
    path: str
    rpc: str
    handler: Handler
    errors: ErrorBody
    summary: str

    @property
    def method(self) -> str:
        """The RPC's path."""
        return f"/ragkeep.gateway.v1.RagService/{self.rpc}"


def routes_of(service: RagService) -> list[Route]:
    """All but the OpenAPI document, which is the same everywhere and needs no token."""
    chat, openai = Chat(service), OpenAI(service)
    return [
        Route("POST", "/chat/stream", "Ask", chat.stream, body_of, "Answer a question, as server-sent events"),
        Route(
            "POST",
            "/v1/chat/completions",
            "Ask",
            openai.chat_completions,
            openai_body_of,
            "Answer the last user message, in OpenAI's shape",
        ),
        # It asks for collections too, which every role may see that may see models: a test holds that.
        Route("GET", "/v1/models", "ListModels", openai.models, openai_body_of, "List what may be named as a model"),
        Route("GET", "/v1/models/{model:path}", "ListModels", openai.model, openai_body_of, "Show one of them"),
        Route("POST", "/v1/embeddings", "Embed", openai.embeddings, openai_body_of, "Turn texts into vectors"),
    ]
