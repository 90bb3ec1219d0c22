"""The ACT paper's three analyses: model complexity, information compression, posterior entropy and flatness.

The paper's exact protocols are not public. Each module here is our reading of one claim, and says so.
"""

from act_engine.analysis.runs import analyze_runs

__all__ = ["analyze_runs"]
