"""Splits in which no person and no source video stands twice."""

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

Identities = frozenset[str]


def split_by_identity(videos: Sequence[tuple[int, Identities]], shares: dict[str, float]) -> list[str | None]:
    """Share videos out among splits by who is in them.

    Identities that meet in a video (a face and the body that it was put on) form a group. Whole groups go to a
    split, the smallest first, real-only, fake-only and mixed groups each by themselves, so that every split gets
    real and fake videos. Only where no group is small enough is one cut, along its links; a video whose identities
    then fall into two splits belongs to neither. The order within equals is that of a hash of the names: the same
    on every machine, and blind to what the names mean.

    Args:
        videos: the label (0 real, 1 fake) and the identities, at least one, of each.
        shares: the share of the identities, 0 to 1, for each split; what is left over is ``train``.

    Returns:
        The split of each video; None for a video between two.
    """
    names = sorted({name for _, identities in videos for name in identities}, key=_hash)
    number = {name: i for i, name in enumerate(names)}
    links = _links([sorted(number[name] for name in identities) for _, identities in videos], len(names))
    count, group = connected_components(links, directed=False)
    labels = [set() for _ in range(count)]
    for label, identities in videos:
        for name in identities:
            labels[group[number[name]]].add(label)
    members: list[list[int]] = [[] for _ in range(count)]
    for identity, its_group in enumerate(group):
        members[its_group].append(identity)

    split_of = ["train"] * len(names)
    for kind in ({0}, {1}, {0, 1}):
        groups = sorted((m for m, found in zip(members, labels, strict=True) if found == kind), key=_size_and_first)
        total = sum(map(len, groups))
        for split, share in shares.items():
            for member in _take(groups, max(1, round(share * total)), total, links):
                split_of[member] = split
    found = [{split_of[number[name]] for name in identities} for _, identities in videos]
    return [splits.pop() if len(splits) == 1 else None for splits in found]


def _size_and_first(members: list[int]) -> tuple[int, int]:
    return len(members), members[0]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _links(members: list[list[int]], total: int) -> csr_array:
    """Make the graph (total x total) of identities that meet in a video."""
    pairs = [(first, other) for first, *others in members for other in others]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    return csr_array((np.ones(len(pairs)), (rows, columns)), shape=(total, total))


def _take(groups: list[list[int]], need: int, total: int, links: csr_array) -> list[int]:
    """Take about `need` of `total` identities out of `groups`, which are ordered by size; the last group stays."""
    whole = 0  # groups
    taken: list[int] = []
    while whole < len(groups) - 1 and len(taken) < need:
        limit = max(1.5 * need, 0 if taken else total / 3)
        if len(taken) + len(groups[whole]) > limit:
            break
        taken += groups[whole]
        whole += 1
    del groups[:whole]
    if not taken and groups and len(groups[0]) > need:
        taken = _linked(groups[0], need, links)
        groups[0] = [member for member in groups[0] if member not in set(taken)]
    return taken


def _linked(members: list[int], need: int, links: csr_array) -> list[int]:
    """Choose `need` of a group's members along its links, so that few videos fall between the two parts."""
    inside = links[members][:, members]
    _, part = connected_components(inside, directed=False)
    largest = np.argmax(np.bincount(part))
    order = breadth_first_order(inside, int(np.argmax(part == largest)), directed=False)[0].tolist()
    rest = sorted(set(range(len(members))) - set(order))
    return [members[i] for i in [*order, *rest][:need]]
