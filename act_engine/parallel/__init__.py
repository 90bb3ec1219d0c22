"""The processes of a run: how they find each other, agree, and notice that one is lost."""

from act_engine.parallel.world import ProcessLost, Vote, World, connect

__all__ = ["ProcessLost", "Vote", "World", "connect"]
