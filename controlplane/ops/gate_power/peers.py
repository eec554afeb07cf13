"""Two other ways to judge, for comparison: Kayenta's Mann-Whitney judgement and a plain threshold.

Kayenta's is written again from its public description (spinnaker.io/docs/guides/user/canary,
NetflixACAJudge): a metric's values interval by interval, experiment against control; the metric is
High when the whole confidence interval of the Mann-Whitney (Hodges-Lehmann) shift lies over a
tolerance of the shift itself, and, where an allowed increase is set, the ratio of the means is over
it. It is a test for one look. It must not know how histories are drawn."""

import numpy as np

from controlplane.ops.gate_power.workload import Floats

# Kayenta's own defaults.
TOLERANCE = 0.25
KAYENTA_Z = 2.326  # of its confidence level of 0.98, two-sided
# The plain threshold looks at the last five minutes, as alert rules do.
WINDOW = 20


def mann_whitney_z(new: Floats, base: Floats) -> Floats:
    """Standardised U by history, with average ranks and the correction for ties; 0 where all values
    are tied. `new` and `base`: (histories, values)."""
    histories, count = new.shape
    size = count + base.shape[1]
    both = np.concatenate([new, base], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    values = np.take_along_axis(both, order, axis=1)
    starts = np.ones_like(values, dtype=bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    flat = np.flatnonzero(starts.ravel())
    runs = np.diff(np.append(flat, values.size))
    first = flat % size
    ranks_sorted = np.repeat(first + (runs + 1) / 2, runs).reshape(histories, size)
    ties = np.bincount(flat // size, weights=runs**3.0 - runs, minlength=histories)
    ranks = np.empty_like(ranks_sorted)
    np.put_along_axis(ranks, order, ranks_sorted, axis=1)
    others = base.shape[1]
    excess = ranks[:, :count].sum(axis=1) - count * (count + 1) / 2 - count * others / 2
    variance = count * others / 12 * (size + 1 - ties / (size * (size - 1)))
    corrected = excess - 0.5 * np.sign(excess)
    safe = np.where(variance > 0, variance, 1.0)
    return np.asarray(np.where(variance > 0, corrected / np.sqrt(safe), 0.0))


def mann_whitney_highest(new: Floats, base: Floats, factor: float) -> Floats:
    """The highest that the statistic against the new version being `factor` times the old one ever
    is, looked at after every interval on all so far, by history."""
    highest = np.zeros(len(new))
    for look in range(2, new.shape[1] + 1):
        np.maximum(highest, mann_whitney_z(new[:, :look], factor * base[:, :look]), out=highest)
    return highest


def mann_whitney_stops(new: Floats, base: Floats, factor: float, critical: float) -> Floats:
    """The look at which the statistic is first over a critical value; infinite where never."""
    stops = np.full(len(new), np.inf)
    for look in range(2, new.shape[1] + 1):
        open_ = np.flatnonzero(np.isinf(stops))
        if not len(open_):
            break
        z = mann_whitney_z(new[open_, :look], factor * base[open_, :look])
        stops[open_[z > critical]] = look
    return stops


def kayenta_stops(new: Floats, base: Floats, factor: float) -> Floats:
    """The look that first says High, by history; infinite where none does."""
    histories, looks = new.shape
    stops = np.full(histories, np.inf)
    for look in range(2, looks + 1):
        open_ = np.flatnonzero(np.isinf(stops))
        if not len(open_):
            break
        x, y = new[open_, :look], base[open_, :look]
        means = y.mean(axis=1)
        is_up = (mann_whitney_z(x, y) > KAYENTA_Z) & (x.mean(axis=1) > factor * means)
        x, y, open_ = x[is_up], y[is_up], open_[is_up]
        if not len(open_):
            continue
        shift = np.median((x[:, :, None] - y[:, None, :]).reshape(len(open_), -1), axis=1)
        is_high = mann_whitney_z(x - TOLERANCE * np.abs(shift)[:, None], y) > KAYENTA_Z
        stops[open_[is_high]] = look
    return stops


def threshold_path(new: Floats, new_of: Floats, base: Floats, base_of: Floats) -> Floats:
    """Ratio of the new version's metric by the old one's over the last `WINDOW` intervals, at each
    look; each metric is a sum of amounts by a sum of what they are of. Infinite where only the old
    one's is 0, and 0 while the first window is not full."""

    def over_window(values: Floats) -> Floats:
        sums = np.cumsum(values, axis=1)
        sums[:, WINDOW:] = sums[:, WINDOW:] - sums[:, :-WINDOW]
        return sums

    news = over_window(new) / over_window(new_of)
    olds = over_window(base) / over_window(base_of)
    with np.errstate(divide="ignore", invalid="ignore"):
        path = np.where(olds > 0, news / olds, np.where(news > 0, np.inf, 1.0))
    path[:, : WINDOW - 1] = 0.0
    return np.asarray(path)


def first_over(path: Floats, critical: float) -> Floats:
    """The look (from 1) at which a path is first over a critical value; infinite where never."""
    over = path > critical
    return np.where(over.any(axis=1), over.argmax(axis=1) + 1.0, np.inf)


def critical_value(highest: Floats, rate: float) -> float:
    """The least value that so many of the highest points are over at most."""
    ordered = np.sort(highest)
    return float(ordered[len(ordered) - 1 - int(rate * len(ordered))])
