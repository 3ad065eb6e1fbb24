"""Score a file: combine the frame scores of its people, and give the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.metrics import combine_frames
from evaluation.verdicts import Cutoffs, choose_cutoffs, error_rates
from faces.extraction import MIN_TRACK_LENGTH
from faces.tracks import MAX_GAP
from scoring.detector import ForgeryDetector, ScoredFace
from scoring.familiarity import unlike_training
from scoring.steadiness import KeptCrops, score_variants
from utils.errors import one_line

FORGET_AFTER = 100  # scored frames between two calls of `FileScore.forget_crops`
MIN_TRACK_SHARE = 0.1  # share of the scored frames; shorter tracks are ignored as false detections
NO_CALIBRATION = "the checkpoint has no calibration, so there is no verdict"


@dataclass
class Person:
    """A person in an image or a video.

    Attributes:
        face: number of the track.
        scores: the frame scores, 0 to 1.
        score: their combination, such as the mean.
        first: time in seconds of the first scored frame with this face.
        last: time in seconds of the last scored frame with this face.
        sides: shorter side of the box in each of these frames, in pixels.
        crops: some of the face crops; None after `FileScore.forget_crops`.
        last_frame: number of the last scored frame with this face, from 1.
    """

    face: int
    first: float
    last: float
    scores: list[float] = field(default_factory=list, repr=False)
    sides: list[float] = field(default_factory=list, repr=False)
    score: float = 0.0
    crops: KeptCrops | None = field(default_factory=KeptCrops, repr=False)
    last_frame: int = 0

    def combine(self, how: str) -> float:
        """Return the combination of the frame scores, see `evaluation.metrics.combine_frames`."""
        return float(combine_frames(np.array(self.scores), np.zeros(len(self.scores), int), how)[0])


@dataclass
class FileScore:
    """The score of an image or a video.

    Attributes:
        file: the image or video.
        is_video: whether the file is a video.
        video_score: how the frame scores of a person combine, see `evaluation.metrics.combine_frames`.
        score: highest score of a person; None without a face.
        verdict: fake, real or uncertain; empty without a score, or if the checkpoint has no calibration.
        face: number of the person with the highest score; None without a face.
        people: the people, by number, without ignored tracks.
        ignored: number of tracks that are ignored as false detections.
        frames: number of scored frames.
        spread: lowest and highest score of the file over the variants of the highest face (`scoring.steadiness`), never
            below the scores of the other people; None without a score.
        cutoffs: of the verdict; None without one.
        error: the error rate of the cutoffs, see `evaluation.verdicts.choose_cutoffs`; None without a verdict.
        false_positive_rate: largest share of real files, with as many people, that score as high; None without a
            verdict. See `evaluation.verdicts.error_rates`.
        false_negative_rate: largest share of fake files that score as low.
        cause: why there is no score; empty with a score.
        notes: warnings about the file.
        tracks: every person by the number of the track, with ignored tracks.
    """

    file: Path
    is_video: bool = False
    video_score: str = "mean"
    score: float | None = None
    verdict: str = ""
    face: int | None = None
    people: list[Person] = field(default_factory=list)
    ignored: int = 0
    frames: int = 0
    spread: tuple[float, float] | None = None
    cutoffs: Cutoffs | None = None
    error: float | None = None
    false_positive_rate: float | None = None
    false_negative_rate: float | None = None
    cause: str = ""
    notes: list[str] = field(default_factory=list)
    tracks: dict[int, Person] = field(default_factory=dict, repr=False)

    def add(self, time: float, faces: Sequence[ScoredFace]) -> None:
        """Add the faces of the next frame, at a time in seconds."""
        self.frames += 1
        for face in faces:
            person = self.tracks.setdefault(face.track, Person(face.track, time, time))
            person.scores.append(face.score)
            person.sides.append(float(min(face.box[2] - face.box[0], face.box[3] - face.box[1])))
            person.last = time
            person.last_frame = self.frames
            if person.crops is not None:
                person.crops.add(face.crop)
        if self.frames % FORGET_AFTER == 0:
            self.forget_crops()

    def forget_crops(self) -> None:
        """Forget the crops of ended tracks that cannot score highest, because another is as long and scores as high.

        Without this, memory use would grow with the number of people in a video.
        """
        ended = [track for track in self.tracks.values() if track.crops and self.frames - track.last_frame > MAX_GAP]
        for track in ended:
            track.score = track.combine(self.video_score)
        highest = -1.0
        for track in sorted(ended, key=lambda track: (-len(track.scores), -track.score, track.face)):
            if track.score <= highest:
                track.crops = None
            highest = max(highest, track.score)

    def decide(self, detector: ForgeryDetector, error: float) -> None:
        """Compute score, spread and verdict from the frames added so far.

        A track is ignored as a false detection if it is shorter than `MIN_TRACK_LENGTH` frames or `MIN_TRACK_SHARE` of
        the scored frames, unless all tracks are that short. A verdict that changes within the spread is uncertain.

        Args:
            detector: scored the frames.
            error: see `evaluation.verdicts.choose_cutoffs`.
        """
        calibration = detector.calibration
        shortest = max(min(MIN_TRACK_LENGTH, self.frames), MIN_TRACK_SHARE * self.frames)
        kept = [person for person in self.tracks.values() if len(person.scores) >= shortest]
        self.people = sorted(kept or self.tracks.values(), key=lambda person: person.face)
        self.ignored = len(self.tracks) - len(self.people)
        for person in self.people:
            person.score = person.combine(self.video_score)
        # The first of equal scores; of those, the longest track has kept its crops.
        highest = max(self.people, key=lambda person: (person.score, len(person.scores), -person.face))
        assert highest.crops is not None
        self.face, self.score = highest.face, highest.score
        others = max((person.score for person in self.people if person is not highest), default=0.0)
        changed = score_variants(highest.crops.chosen(), self.score, lambda crops: detector.score(crops)[0])
        side = None if detector.faces_given else float(np.median(highest.sides))  # a given crop has no face box
        self.notes += unlike_training(detector.network, detector.checkpoint, highest.crops.chosen(), side)
        if detector.training_faces is None and not detector.faces_given:
            self.notes.append("the checkpoint does not say how its training faces were cropped, so the crop is a guess")
        self.notes += [f"the network was trained on {about}" for about in detector.checkpoint.get("about", [])]
        self.spread = max(float(changed.min()), others), max(float(changed.max()), others)
        if calibration is None:
            self.notes.append(NO_CALIBRATION)
            return
        level, count = "video" if self.is_video else "frame", len(self.people)
        self.error, self.cutoffs = error, choose_cutoffs(calibration, level, error, count)
        self.false_positive_rate, self.false_negative_rate = error_rates(calibration, level, self.score, count)
        self.verdict = self.cutoffs.verdict(self.score)
        if self.verdict != "uncertain" and {self.cutoffs.verdict(score) for score in self.spread} != {self.verdict}:
            self.verdict = "uncertain"
            self.notes.append("the verdict changes with small changes of the face crop")

    def drawn_cutoffs(self) -> Cutoffs | None:
        """Return cutoffs under which the faces of an image have the file's verdict, even if the spread changed it."""
        if self.verdict != "uncertain" or self.cutoffs is None or self.score is None:
            return self.cutoffs
        return Cutoffs(min(self.cutoffs.real, self.score), max(self.cutoffs.fake, self.score))

    def __str__(self) -> str:
        name, notes = one_line(self.file), "".join(f"; {note}" for note in self.notes)
        if self.score is None or self.spread is None:
            return f"{name}: not scored: {self.cause}{notes}"
        count = len(self.people)
        people = "1 person" if count == 1 else f"{count} people, person {self.face} scores highest"
        frames = f", {format_frame_count(self.frames)}" if self.is_video else ""
        verdict = f"{self.verdict} " if self.verdict else ""
        spread = f"[{self.spread[0]:.3f}, {self.spread[1]:.3f}]"
        return f"{name}: {verdict}{self.score:.3f} {spread} ({_format_rates(self)}{people}{frames}{notes})"


def _format_rates(result: FileScore) -> str:
    """Format the error rates of a score in a few words, with a comma at the end; return "" without them."""
    if result.false_positive_rate is None or result.false_negative_rate is None:
        return ""
    return f"FPR {100 * result.false_positive_rate:.3g} %, FNR {100 * result.false_negative_rate:.3g} %, "


def format_frame_count(number: int) -> str:
    """Format a number of frames as ``1 frame``, ``2 frames`` and so on."""
    return f"{number} frame{'s' * (number != 1)}"


def describe_rates(result: FileScore) -> str:
    """State the false positive and the false negative rate of a score in a sentence; "" without them."""
    if result.false_positive_rate is None or result.false_negative_rate is None:
        return ""
    kind = "videos" if result.is_video else "images"
    people = f" with {len(result.people)} people" if len(result.people) > 1 else ""
    return (
        f"At most {100 * result.false_positive_rate:.3g} % of the real {kind}{people} score this high, and at most "
        f"{100 * result.false_negative_rate:.3g} % of the fake {kind} score this low. This holds for {kind} that are "
        "similar to the validation videos."
    )
