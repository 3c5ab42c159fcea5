"""The scoring engine's process: `python -m fust.serve.engines.scorer_child` answers `POST /score` (`fust.wire.scoring`)."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import msgspec

from fust.serve.engines.child_main import ChildConfig, run_child
from fust.serve.engines.loopback import LoopbackHandler, LoopbackServer, Refused
from fust.serve.engines.scored import Wanted, named_tokens, read_score_request
from fust.serve.engines.scorer import Scorer
from fust.wire.scoring import ScoreAnswer


class _Server(LoopbackServer):
    def __init__(self, scorer: Scorer, api_key: str) -> None:
        super().__init__(_Handler, api_key)
        self.scorer = scorer
        self.turn = threading.Lock()  # the model serves one request at a time


class _Handler(LoopbackHandler):
    def post(self, path: str, body: bytes) -> None:
        """Scores what is asked for."""
        assert isinstance(self.server, _Server)
        if path != "/score":
            raise Refused(404, "not_found_error", "POST /score is all there is")
        request = read_score_request(body)
        scorer = self.server.scorer
        with self.server.turn:
            rows = [
                Wanted(
                    row.tokens if row.tokens is not None else scorer.tokenize(row.text or ""),
                    max(1, row.start),
                )
                for row in request.rows
            ]
            scorer.use(request.adapter)
            scored = scorer.score(rows, request.top, self.is_there)
            named = named_tokens(scored) if request.pieces else ()
            answer = ScoreAnswer(scored, {token: scorer.piece(token) for token in named})
        self.answer(200, msgspec.json.encode(answer))


def _start(config: ChildConfig) -> int:
    scorer = Scorer(Path(config.path), config.context, config.threads)
    server = _Server(scorer, config.api_key)
    threading.Thread(target=server.serve_forever, name="fust-score", daemon=True).start()
    return int(server.server_address[1])


if __name__ == "__main__":
    sys.exit(run_child(_start))
