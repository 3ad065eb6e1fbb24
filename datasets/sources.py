"""sources.csv, beside the label files of a dataset: which video, source videos and people each folder of faces shows.

Its columns are ``path`` (the folder, as in the label files), ``video``, ``source`` and ``identity``. A folder with
several sources or people has several lines; an unknown source or person is left empty.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import scipy  # its subpackages, which are slow to import, load when they are used

from utils.errors import InputError
from utils.files import write_if_changed
from utils.tables import TableReader, csv_line

SOURCES_FILE = "sources.csv"
COLUMNS = ("path", "video", "source", "identity")
FFPP_PATH = re.compile(r"(?:original|manipulated)_sequences/[^/]+/(?:raw|c23|c40)/(?:videos/)?(\d{3})(?:_(\d{3}))?")
CELEB_DF_PATH = re.compile(
    r"(?:Celeb-real|Celeb-synthesis|YouTube-real)/(?:(?:FaceSwap|FaceReenact|TalkingFace)/[^/]+/)?[^/]+"
)


class Origin(NamedTuple):
    """What is known of the faces in one folder.

    Attributes:
        video: the video that they were cut from; several people of one video have a folder each.
        sources: the source videos that the video was made from; for a real video, usually itself.
        people: the people that the dataset names.
    """

    video: str
    sources: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()


class Groups(NamedTuple):
    """Which of F folders belong together.

    Attributes:
        videos: F, the video of each folder.
        clusters: F, the cluster of each folder: videos connected by shared sources, named by one of these.
        unit: what the videos of a cluster share: source; identity, if their sources are unknown; video, if both are
            unknown. Several units are joined by " or ".
    """

    videos: list[str]
    clusters: list[str]
    unit: str


def write_sources(file: Path, origins: dict[str, Origin]) -> None:
    """Write sources.csv, if it would change.

    Args:
        file: the file to write.
        origins: folder, as in the label files -> its origin.
    """
    lines = [csv_line(COLUMNS)]
    for path, (video, sources, people) in origins.items():
        for source in sorted(sources) or [""]:
            for person in sorted(people) or [""]:
                lines.append(csv_line([path, video, source, person]))
    write_if_changed(file, "".join(lines))


def read_sources(file: Path) -> dict[str, Origin]:
    """Read sources.csv; a missing file names no folder.

    Raises:
        InputError: the file is malformed.
    """
    if not file.is_file():
        return {}
    origins: dict[str, Origin] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            reader = TableReader(lines)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                raise InputError(
                    f"{file}: the header lacks {', '.join(sorted(missing))}; it needs {','.join(COLUMNS)}."
                )
            for row in reader:
                path, video, source, person = (row[name] for name in COLUMNS)
                before = origins.get(path, Origin(video))
                if None in (path, video, source, person) or not video or before.video != video:
                    raise InputError(f"{file}: line {reader.line_num}: a folder needs one video; correct the line.")
                sources, people = before.sources | {source} - {""}, before.people | {person} - {""}
                origins[path] = Origin(video, sources, people)
    except csv.Error as error:
        raise InputError(f"{file}: line {reader.line_num} is malformed ({error}); correct it.") from error
    return origins


def origin_of_path(path: str) -> Origin:
    """Read the sources from the path of a folder, if it has the layout of FaceForensics++ or Celeb-DF."""
    if match := FFPP_PATH.search(path):
        return Origin(path, frozenset(filter(None, match.groups())))
    if match := CELEB_DF_PATH.search(path):
        return Origin(path, frozenset({celeb_df_source(match[0])}))
    return Origin(path)


def celeb_df_source(path: str) -> str:
    """Return the source video, id1_0007 for Celeb-synthesis/id1_id0_0007.mp4; a real video is its own source.

    A talking face of Celeb-DF++, such as id1_0007_test_3.mp4, names its source first.
    """
    match = re.match(r"(id\d+)(?:_id\d+)*_(\d+)", PurePath(path).stem.lower())
    return f"{match[1]}_{match[2]}" if match else path


def group_folders(paths: Sequence[str], sources_file: Path) -> Groups:
    """Group folders of faces into videos, and videos into clusters that are independent of each other.

    Args:
        paths: F >= 1 folders, as in the label files.
        sources_file: sources.csv of the dataset, which may be missing or lack folders.

    Raises:
        InputError: sources.csv is malformed.
    """
    known = read_sources(sources_file)
    origins = [known.get(path) or origin_of_path(path) for path in paths]
    units = {"source" if o.sources else "identity" if o.people else "video" for o in origins}
    links = [sorted(origin.sources or origin.people or {origin.video}) for origin in origins]
    linked_names = {name for linked in links for name in linked}
    names = sorted(linked_names | {origin.video for origin in origins})
    number = {name: i for i, name in enumerate(names)}
    pairs = [
        (number[origin.video], number[name]) for origin, linked in zip(origins, links, strict=True) for name in linked
    ]
    rows, columns = zip(*pairs, strict=True)
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    name_of = {component[number[name]]: name for name in sorted(linked_names, reverse=True)}  # the first name stays
    videos = [origin.video for origin in origins]
    return Groups(videos, [name_of[component[number[video]]] for video in videos], " or ".join(sorted(units)))
