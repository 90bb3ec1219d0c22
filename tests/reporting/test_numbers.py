"""Means and deviations over seeds."""

from act_engine.reporting.numbers import mean_and_deviation, significant
from act_engine.runs.methods import over_seeds


def test_spread_of_nested_results():
    results = [{"a": 1.0, "b": [1.0, {"c": None}]}, {"a": 3.0, "b": [1.0, {"c": 2.0}]}]
    assert over_seeds(results, "mean") == {"a": 2.0, "b": [1.0, {"c": None}]}
    assert over_seeds(results, "deviation") == {"a": 2**0.5, "b": [0.0, {"c": None}]}
    assert over_seeds(results[:1], "deviation") == {"a": None, "b": [None, {"c": None}]}


def test_a_mean_is_written_with_its_deviation():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert mean_and_deviation([2.25], digits=2) == "2.25"


def test_a_measure_is_written_to_its_significant_digits():
    assert significant([1.0, 3.0, 5.5]) == "3.17 ± 2.3"
    assert significant([0.012, 0.014], scale=100) == "1.3 ± 0.14"
    assert significant([1249.0, 1009.0]) == "1130 ± 170"
    assert significant([5.678]) == "5.68"
    assert significant([1.0, None]) == "–"
