"""How exactly a share is known that was counted on a sample."""

import math

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval, in [0, 1], of a share of which `successes` in `trials` were seen.

    Wilson's score interval (Journal of the American Statistical Association 22, 1927): it stays inside [0, 1] and holds
    its level near 0 and 1, where robust accuracies often lie. It speaks of the choice of the test images alone.
    """
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
