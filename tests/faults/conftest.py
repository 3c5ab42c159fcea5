"""Fixtures of the fault tests: a home to pull into, and hubs that misbehave."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from pull_world import hub_of, world  # noqa: F401
