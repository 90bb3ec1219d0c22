"""The processes of a run: how they find each other, agree, and notice that one is lost."""

from act_engine.errors import ProcessLost
from act_engine.parallel.world import Vote, World, connect

__all__ = ["ProcessLost", "Vote", "World", "connect"]
