"""Means and deviations over runs that differ in their seed."""

import statistics
from collections.abc import Sequence


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """``mean ± sample standard deviation`` as a text; the mean alone of a single value."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def significant(values: Sequence[float | None], scale: float = 1.0) -> str:
    """``mean ± sample standard deviation`` of `scale` times the values, to 3 and 2 digits; a dash if one is missing."""
    if any(value is None for value in values):
        return "–"
    scaled = [scale * value for value in values]
    deviation = f" ± {_rounded(statistics.stdev(scaled), 2)}" if len(scaled) > 1 else ""
    return f"{_rounded(statistics.mean(scaled), 3)}{deviation}"


def _rounded(value: float, digits: int) -> str:
    """170, where ``.2g`` alone would write 1.7e+02."""
    return f"{float(f'{value:.{digits}g}'):g}"
