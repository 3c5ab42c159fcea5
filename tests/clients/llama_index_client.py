"""LlamaIndex against a Fust: FUST_URL, FUST_KEY and FUST_MODEL say where; prints what each call came to."""

import json
import os

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

base, key, model = os.environ["FUST_URL"] + "/v1", os.environ["FUST_KEY"], os.environ["FUST_MODEL"]
llm = OpenAILike(
    model=model, api_base=base, api_key=key, is_chat_model=True, context_window=2048, max_tokens=5,
    temperature=0, max_retries=0,
)  # fmt: skip
hello = [ChatMessage(role="user", content="hello")]
found: dict[str, object] = {
    "chat": str(llm.chat(hello).message.content),
    "stream": "".join(piece.delta or "" for piece in llm.stream_chat(hello)),
}
if os.environ.get("FUST_EMBEDS"):
    embedder = OpenAILikeEmbedding(model_name=model, api_base=base, api_key=key, max_retries=0)
    found["embedding"] = len(embedder.get_text_embedding("ba be"))
print(json.dumps(found))
