"""The scoring engine's process: `python -m fust.serve.engines.scorer_child` answers `POST /score` (`fust.wire.scoring`)."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from fust.serve.engines.child_http import Call, on_thread, serve_routes
from fust.serve.engines.child_main import ChildConfig, give_memory_back, run_child
from fust.serve.engines.llama_c import open_library
from fust.serve.engines.scored import Wanted, named_tokens, read_score_request
from fust.serve.engines.scorer import Scorer
from fust.wire.scoring import ScoreAnswer


def _start(config: ChildConfig) -> int:
    give_memory_back()
    scorer = Scorer(Path(config.path), config.context, config.threads, open_library(config.library))
    turn = threading.Lock()  # the model serves one request at a time

    def score(call: Call) -> ScoreAnswer:
        request = read_score_request(call.body)
        with turn:
            rows = [
                Wanted.of(row, row.tokens if row.tokens is not None else scorer.tokenize(row.text or ""))
                for row in request.rows
            ]
            scorer.use(request.adapter)
            scored = scorer.score(rows, request.top, call.is_there)
            named = named_tokens(scored) if request.pieces else ()
            return ScoreAnswer(scored, {token: scorer.piece(token) for token in named})

    return serve_routes(config, {"/score": on_thread(score)})


if __name__ == "__main__":
    sys.exit(run_child(_start))
