"""POST /v1/embeddings: texts as vectors, where the engine can."""

from __future__ import annotations

import base64
import struct

from offload.engine import Embedding, Engine
from serve.chat_turns import refuse_unless
from serve.http_errors import BadRequest
from serve.model_names import check_name
from serve.request_schema import EmbeddingBody
from serve.response_bodies import EmbeddingList, EmbeddingReply


async def embed(body: EmbeddingBody, engine: Engine) -> EmbeddingList:
    """Return the vectors. Raises BadRequest, and RequestError where a text cannot be placed."""
    check_name(body.model, engine)
    refuse_unless(body.dimensions is None, "dimensions", "leave it out")
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(text.strip() for text in texts):
        raise BadRequest("input holds an empty text; write one", param="input")
    if not isinstance(engine, Embedding):
        raise BadRequest("this model makes no embeddings; serve one that does", param="model")
    vectors = await engine.embed(texts)
    as_text = body.encoding_format == "base64"
    rows = [
        EmbeddingReply(_packed(vector) if as_text else vector, index)
        for index, vector in enumerate(vectors)
    ]
    return EmbeddingList(rows, body.model)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
