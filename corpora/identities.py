"""Split videos so that no person and no source video is in two splits."""

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
import scipy  # its subpackages, which are slow to import, load when they are used

Identities = frozenset[str]
MAX_SETS = 200  # sets of identities, the smallest first, that may fill a gap; bounds the time in large datasets


def split_by_identity(videos: Sequence[tuple[int, Identities]], shares: dict[str, float]) -> list[str | None]:
    """Assign each video to a split by its identities.

    Identities that appear in one video (a face and the body it was put on) form a group. Complete groups go to a
    split, the smallest first. Real-only, fake-only and mixed groups are assigned separately, so that every split gets
    real and fake videos. If no group is small enough, one group is cut along its links; a video with identities in two
    splits then belongs to neither. If a split of a small dataset still has no video of a class, identities move so
    that every split has both classes, where that is possible. A hash of the names breaks ties, so the split is the same
    on every machine and independent of the meaning of the names.

    Args:
        videos: the label (0 real, 1 fake) and the identities (at least one) of each video.
        shares: the share of the identities (0 to 1) of each split; the rest is ``train``.

    Returns:
        The split of each video; None if its identities are in two splits.
    """
    names = sorted({name for _, identities in videos for name in identities}, key=_hash)
    index = {name: i for i, name in enumerate(names)}
    people = [sorted(index[name] for name in identities) for _, identities in videos]
    links = _link_graph(people, len(names))
    count, group = scipy.sparse.csgraph.connected_components(links, directed=False)
    labels: list[set[int]] = [set() for _ in range(count)]
    for label, identities in videos:
        for name in identities:
            labels[group[index[name]]].add(label)
    members: list[list[int]] = [[] for _ in range(count)]
    for identity, group_number in enumerate(group):
        members[group_number].append(identity)

    split_of = ["train"] * len(names)
    for kind in ({0}, {1}, {0, 1}):
        groups = sorted((m for m, present in zip(members, labels, strict=True) if present == kind), key=_by_size)
        total = sum(map(len, groups))
        for split, share in shares.items():
            for member in _take(groups, max(1, round(share * total)), total, links):
                split_of[member] = split
    _fill_gaps(split_of, [label for label, _ in videos], people, members, [*shares, "train"])
    return _splits_of_videos(split_of, people)


def _splits_of_videos(split_of: list[str], people: list[list[int]]) -> list[str | None]:
    candidates = [{split_of[identity] for identity in identities} for identities in people]
    return [splits.pop() if len(splits) == 1 else None for splits in candidates]


def _fill_gaps(
    split_of: list[str], labels: list[int], people: list[list[int]], groups: list[list[int]], splits: list[str]
) -> None:
    """Move identities so that every split has real and fake videos, where possible; do nothing if all splits have them.

    Each split needs the identities of a real and of a fake video, and shares none of them with another split. Complete
    groups are tried first, because cutting a group leaves out videos.

    Args:
        split_of: the split of each identity; changed in place.
        labels: the label of each video.
        people: the identities of each video.
        groups: the identities of each group.
        splits: the names of all splits; the last gets the most identities.
    """
    filled = {(split, label) for split, label in zip(_splits_of_videos(split_of, people), labels, strict=True) if split}
    if len(filled) == 2 * len(splits):
        return
    group_of = {identity: group for group in map(frozenset, groups) for identity in group}
    for sets in ([group_of[identities[0]] for identities in people], [frozenset(identities) for identities in people]):
        real, fake = (
            sorted({members for members, found in zip(sets, labels, strict=True) if found == label}, key=_by_size)
            for label in (0, 1)
        )
        both = {one | other for one in real[:MAX_SETS] for other in fake[:MAX_SETS]}
        chosen = _choose_disjoint(sorted(both, key=_by_size)[:MAX_SETS], len(splits))
        if chosen:
            for split, identities in zip(splits, chosen, strict=True):
                for identity in identities:
                    split_of[identity] = split
            return


def _choose_disjoint(sets: list[frozenset[int]], count: int) -> list[frozenset[int]] | None:
    """Return `count` sets that share no member, the first such choice in the given order; None if there is none."""
    if count == 0:
        return []
    for i, first in enumerate(sets):
        others = _choose_disjoint([other for other in sets[i + 1 :] if first.isdisjoint(other)], count - 1)
        if others is not None:
            return [first, *others]
    return None


def _by_size(identities: Collection[int]) -> tuple[int, list[int]]:
    return len(identities), sorted(identities)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _link_graph(members: list[list[int]], total: int) -> "scipy.sparse.csr_array":
    """Return the graph (total x total) that links identities of the same video."""
    pairs = [(first, other) for first, *others in members for other in others]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    return scipy.sparse.csr_array((np.ones(len(pairs)), (rows, columns)), shape=(total, total))


def _take(groups: list[list[int]], need: int, total: int, links: "scipy.sparse.csr_array") -> list[int]:
    """Remove about `need` of `total` identities from `groups` (sorted by size) and return them; keep the last group."""
    taken_groups = 0
    taken: list[int] = []
    while taken_groups < len(groups) - 1 and len(taken) < need:
        limit = max(1.5 * need, 0 if taken else total / 3)
        if len(taken) + len(groups[taken_groups]) > limit:
            break
        taken += groups[taken_groups]
        taken_groups += 1
    del groups[:taken_groups]
    if not taken and groups and len(groups[0]) > need:
        taken = _cut_group(groups[0], need, links)
        remaining = set(groups[0]) - set(taken)
        groups[0] = [member for member in groups[0] if member in remaining]
    return taken


def _cut_group(members: list[int], need: int, links: "scipy.sparse.csr_array") -> list[int]:
    """Choose `need` members of a group along its links, so that few videos have identities in both parts."""
    inside = links[members][:, members]
    _, part = scipy.sparse.csgraph.connected_components(inside, directed=False)
    start = int(np.argmax(part == np.argmax(np.bincount(part))))  # in the largest part
    order = scipy.sparse.csgraph.breadth_first_order(inside, start, directed=False)[0].tolist()
    rest = sorted(set(range(len(members))) - set(order))
    return [members[i] for i in [*order, *rest][:need]]
