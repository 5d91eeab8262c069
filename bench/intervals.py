"""Means with 95 % intervals, as `spar eval` computes them: by resampling prompts, and by Student's distribution over a few runs."""

import math
import random
import statistics

RESAMPLES = 2_000
# The 97.5th percentile by degrees of freedom; beyond the table the normal distribution's is close enough.
STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]


def resampled(cases, value):
    """`value` of the cases, and the 2.5th and 97.5th percentile of it over resampled cases; a fixed seed makes it repeatable."""
    draw = random.Random(0)
    drawn = sorted(value(draw.choices(cases, k=len(cases))) for _ in range(RESAMPLES))
    return value(cases), drawn[RESAMPLES // 40], drawn[RESAMPLES - 1 - RESAMPLES // 40]


def over_runs(values):
    """The mean over runs, such as seeds, with its interval; None for fewer than two."""
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    half = (STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean, mean - half, mean + half


def share(value):
    """Three digits without the zero before the point, as in the tables of the documentation."""
    return f"{value:.3f}".replace("0.", ".", 1)


def difference(estimate):
    """A difference with its interval."""
    mean, low, high = (share(value).replace("-", "−") for value in estimate)
    return f"{'' if mean.startswith('−') else '+'}{mean} [{low}, {high}]"
