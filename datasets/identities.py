"""Splits in which no person and no source video stands twice."""

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Identities = frozenset[str]


def split_by_identity(videos: Sequence[tuple[int, Identities]], shares: dict[str, float]) -> list[str | None]:
    """Share videos out among splits by who is in them.

    Identities that meet in a video (a face and the body that it was put on) form a group. Whole groups go to a
    split, the smallest first, real-only, fake-only and mixed groups each by themselves, so that every split gets
    real and fake videos. Only where no group is small enough is one cut; a video whose identities then fall into
    two splits belongs to neither. The order within equals is that of a hash of the names: the same on every
    machine, and blind to what the names mean.

    Args:
        videos: the label (0 real, 1 fake) and the identities, at least one, of each.
        shares: the share of the identities, 0 to 1, for each split; what is left over is ``train``.

    Returns:
        The split of each video; None for a video between two.
    """
    names = sorted({name for _, identities in videos for name in identities}, key=_hash)
    number = {name: i for i, name in enumerate(names)}
    group = _groups([[number[name] for name in identities] for _, identities in videos], len(names))
    labels = [set() for _ in names]
    for label, identities in videos:
        for name in identities:
            labels[group[number[name]]].add(label)

    split_of = ["train"] * len(names)
    for kind in ({0}, {1}, {0, 1}):
        groups = [np.flatnonzero(group == g).tolist() for g in np.unique(group) if labels[g] == kind]
        groups.sort(key=lambda members: (len(members), members[0]))
        for split, share in shares.items():
            need = max(1, round(share * sum(map(len, groups))))
            for member in _take(groups, need):
                split_of[member] = split
    found = [{split_of[number[name]] for name in identities} for _, identities in videos]
    return [splits.pop() if len(splits) == 1 else None for splits in found]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _groups(members: list[list[int]], total: int) -> np.ndarray:
    """Number the groups (total) of identities that are linked by common videos."""
    pairs = [(first, other) for first, *others in members for other in others]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(total, total))
    return connected_components(graph, directed=False)[1]


def _take(groups: list[list[int]], need: int) -> list[int]:
    """Take about `need` identities out of `groups`, which are ordered by size, and always leave some."""
    taken = []
    while len(groups) > 1 and len(taken) < need and len(taken) + len(groups[0]) <= 1.5 * need:
        taken += groups.pop(0)
    if not taken and groups and len(groups[0]) > 1 and (len(groups) > 1 or len(groups[0]) > need):
        taken, groups[0] = groups[0][:need], groups[0][need:]
    return taken
