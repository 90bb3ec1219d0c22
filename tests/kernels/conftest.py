"""Hypothesis's profiles: derandomised unless HYPOTHESIS_PROFILE=explore asks for new draws, and more of them."""

import os

import hypothesis

# A busy machine is no reason to fail: neither a deadline nor a check on how long a draw took.
_PATIENT = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("ci", derandomize=True, max_examples=100, **_PATIENT)
hypothesis.settings.register_profile("explore", max_examples=3000, **_PATIENT)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
