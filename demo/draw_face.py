"""Draw portraits of invented people: a person, a scene (light, place, camera) and a pose determine one image.

Colours are RGB grey levels (float32, 0 to 255). Points on a face use face coordinates ``(u, v)`` on an ellipsoid, which
the pose rotates and projects: u from -1 (left in the image) to 1, v from -1 (crown) to 1 (chin).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

# Images are drawn this many times larger and then averaged, for smooth edges.
OVERSAMPLING = 4
Points = np.ndarray | Sequence[tuple[float, float]]
_DEPTH = 0.85  # depth of the ellipsoid of the head, in units of half its height
_SKIN = np.array([[70, 44, 32], [112, 74, 54], [160, 112, 84], [200, 152, 122], [226, 182, 154], [240, 206, 184]])
_HAIR = np.array(
    [
        [22, 18, 18],
        [48, 32, 24],
        [84, 54, 34],
        [128, 84, 48],
        [186, 148, 92],
        [142, 62, 34],
        [150, 148, 146],
        [206, 204, 200],
    ]
)
_IRIS = np.array([[58, 36, 22], [96, 62, 32], [70, 96, 60], [72, 110, 140], [110, 124, 130]])
_LIGHT = np.array([[1.06, 1.0, 0.9], [1.0, 1.0, 1.0], [0.94, 1.0, 1.07]])


@dataclass(frozen=True)
class Person:
    """The appearance of a person, constant in all images; lengths in face coordinates."""

    width: float
    jaw: float  # how much narrower the chin is
    square: float  # exponent of the jaw outline; lower is squarer
    skin: np.ndarray
    texture: np.ndarray
    shine: float
    age: float
    blush: float
    hair: np.ndarray
    strands: np.ndarray
    hair_style: str
    hairline: float
    parting: float
    volume: float  # size of the hair outline relative to the head
    beard: float
    glasses: bool
    eye_x: float
    eye_y: float
    eye_size: tuple[float, float]
    eye_slant: float
    iris: np.ndarray
    brow: tuple[float, float, float]
    nose: tuple[float, float]
    mouth_y: float
    mouth_width: float
    lips: tuple[float, float]
    lip_colour: np.ndarray
    ears: float


@dataclass(frozen=True)
class Scene:
    """The scene and the camera of a video, constant in all frames and independent of the person."""

    light: np.ndarray  # direction, unit vector
    light_colour: np.ndarray
    ambient: float
    exposure: float
    background: np.ndarray
    shirt: np.ndarray
    blur: float  # sigma in pixels
    noise: float  # standard deviation in grey levels
    quality: int  # of JPEG, 0 to 100


@dataclass(frozen=True)
class Pose:
    """Position and expression in one frame; angles in radians, positions as fractions of the image side."""

    yaw: float
    pitch: float
    roll: float
    x: float
    y: float
    scale: float
    smile: float
    open: float
    blink: float
    gaze: float


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, ...]) -> np.ndarray:
    """Return smooth noise, size x size, with unit variance: a sum of grids with `cells` cells per side."""
    layers = [
        cv2.resize(rng.standard_normal((n, n)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        for n in cells
    ]
    total = np.sum(layers, axis=0)
    return (total - total.mean()) / total.std()


def _blend(table: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Return a random colour between two neighbours in a table, with noise of `spread` grey levels."""
    at = rng.uniform(0, len(table) - 1)
    low, part = int(at), at % 1
    high = min(low + 1, len(table) - 1)
    colour = table[low] * (1 - part) + table[high] * part + rng.normal(0, spread, 3)
    return np.clip(colour, 8, 250).astype(np.float32)


def random_person(rng: np.random.Generator) -> Person:
    """Draw the appearance of a random person."""
    skin = _blend(_SKIN, rng, 4)
    texture = 0.05 * _noise(rng, 128, (64, 40)) + 0.03 * _noise(rng, 128, (6, 12))
    freckles = np.zeros((128, 128), np.float32)
    for _ in range(int(rng.choice([0, 0, 12, 40]))):
        centre = rng.integers((30, 52), (98, 84))
        radius, strength = int(rng.integers(1, 3)), float(rng.uniform(0.1, 0.3))
        cv2.circle(freckles, tuple(int(c) for c in centre), radius, strength, -1)
    age = rng.uniform(0, 1)
    lips = skin * rng.uniform(0.7, 0.9) + np.array([30, -10, -4]) * rng.uniform(0.4, 1.4)
    style = str(rng.choice(["cap", "cap", "long", "long", "curly", "fringe", "bald"]))
    strands = cv2.resize(_noise(rng, 128, (20, 40))[:12], (128, 128))  # noise stretched along the hair
    return Person(
        width=rng.uniform(0.68, 0.84),
        jaw=rng.uniform(0.05, 0.3),
        square=rng.uniform(0.72, 1.0),
        skin=skin,
        texture=1 + texture - freckles,
        shine=rng.uniform(5, 28),
        age=age,
        blush=rng.uniform(0, 0.25),
        hair=_blend(_HAIR, rng, 5),
        strands=1 + 0.16 * strands,
        hair_style=style,
        hairline=rng.uniform(-0.72, -0.5),
        parting=rng.uniform(-0.5, 0.5),
        volume=rng.uniform(1.06, 1.2),
        beard=float(rng.choice([0, 0, 0, 0.35, 0.75])) * rng.uniform(0.7, 1),
        glasses=bool(rng.random() < 0.15),
        eye_x=rng.uniform(0.36, 0.46),
        eye_y=rng.uniform(-0.16, -0.06),
        eye_size=(rng.uniform(0.16, 0.21), rng.uniform(0.065, 0.1)),
        eye_slant=rng.uniform(-0.03, 0.03),
        iris=_blend(_IRIS, rng, 6),
        brow=(rng.uniform(0.15, 0.21), rng.uniform(0.02, 0.09), rng.uniform(0.02, 0.045)),
        nose=(rng.uniform(0.1, 0.17), rng.uniform(0.2, 0.32)),
        mouth_y=rng.uniform(0.5, 0.58),
        mouth_width=rng.uniform(0.24, 0.36),
        lips=(rng.uniform(0.03, 0.06), rng.uniform(0.04, 0.08)),
        lip_colour=np.clip(lips, 20, 240).astype(np.float32),
        ears=rng.uniform(0.1, 0.16),
    )


def random_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw a random place, light and camera for a video of size x size pixels."""
    side = size * OVERSAMPLING
    colours = rng.uniform(50, 200) + rng.normal(0, 18, 3)
    colours = colours + rng.normal(0, 22, (3, 3, 1)) + rng.normal(0, 9, (3, 3, 3))
    wall: np.ndarray = cv2.resize(colours.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 4))):  # picture frames, shelves and doors, out of focus
        corner, extent = rng.uniform(-0.2, 0.9, 2) * side, rng.uniform(0.1, 0.5, 2) * side
        box = corner + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * extent
        colour = rng.uniform(40, 210) + rng.normal(0, 22, 3)
        paint(wall, box, colour, rng.uniform(0.2, 0.7), rng.uniform(1, 8))
    wall *= 1 + rng.uniform(0.01, 0.06) * _noise(rng, side, (10, 30, side // 5))[..., None]
    across, up = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.1)
    light = np.array([across, up, 1.0]) / np.sqrt(across**2 + up**2 + 1)
    return Scene(
        light=light.astype(np.float32),
        light_colour=_blend(_LIGHT * 100, rng, 0.5) / 100,
        ambient=rng.uniform(0.3, 0.6),
        exposure=rng.uniform(0.85, 1.1),
        background=np.clip(wall, 5, 250),
        shirt=rng.uniform(25, 225, 3).astype(np.float32),
        blur=rng.uniform(0.0, 0.45),
        noise=rng.uniform(2.0, 5.0),
        quality=int(rng.integers(75, 97)),
    )


def random_poses(rng: np.random.Generator, frames: int) -> list[Pose]:
    """Draw the poses of a video: position and expression vary around a random mean."""
    mean = np.array(  # in the order of the fields of Pose
        [
            rng.normal(0, 0.22),
            rng.normal(0, 0.1),
            rng.normal(0, 0.07),
            rng.normal(0.5, 0.02),
            rng.normal(0.5, 0.02),
            rng.uniform(0.39, 0.45),
            rng.uniform(-0.3, 1),
            0.03,
            0.05,
            rng.normal(0, 0.3),
        ]
    )
    step = np.array([0.06, 0.04, 0.025, 0.006, 0.006, 0.004, 0.2, 0.03, 0.1, 0.2])
    poses = []
    for _ in range(frames):
        pose = mean + rng.normal(0, 1, 10) * step
        pose[:3] = np.clip(pose[:3], -0.5, 0.5)
        pose[7] = abs(pose[7]) if rng.random() < 0.6 else rng.uniform(0.08, 0.2)
        pose[8] = np.clip(abs(pose[8]), 0, 0.7)
        poses.append(Pose(*pose.tolist()))
    return poses


def vary(pose: Pose, rng: np.random.Generator, turn: float) -> Pose:
    """Return a copy of a pose with angle noise of `turn` radians and a new random expression."""
    yaw, pitch, roll = (a + rng.normal(0, turn) for a in (pose.yaw, pose.pitch, pose.roll))
    return replace(
        pose,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        smile=rng.uniform(-0.5, 1.1),
        open=rng.uniform(0, 0.2),
        gaze=rng.normal(0, 0.4),
    )


def _coverage(
    shape: tuple[int, ...], outline: np.ndarray, origin: np.ndarray | float = 0.0, thickness: float = 0.0
) -> np.ndarray:
    """Return a mask (h x w float32, 0 or 1) of a polygon (N x 2 pixels), or of its outline if thickness > 0."""
    mask = np.zeros(shape, np.uint8)
    points = np.round((outline - origin) * 16).astype(np.int32)
    if thickness > 0:
        cv2.polylines(mask, [points], False, 1, max(1, round(thickness)), shift=4)
    else:
        cv2.fillPoly(mask, [points], 1, shift=4)
    return mask.astype(np.float32)


def _box(outline: np.ndarray, margin: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (x, y) of the box around an outline, clipped to the image."""
    low, high = np.floor(outline.min(0) - margin), np.ceil(outline.max(0) + margin)
    return np.clip(low, 0, side).astype(int), np.clip(high, 0, side).astype(int)


def paint(
    image: np.ndarray,
    outline: np.ndarray,
    colour: np.ndarray | float,
    alpha: float,
    blur: float = 0.0,
    thickness: float = 0.0,
    clip: np.ndarray | None = None,
) -> None:
    """Paint a polygon, or its outline, onto an image in place.

    Args:
        image: H x W x 3, float32.
        outline: the polygon, N x 2 pixels.
        colour: RGB colour, or a factor for the present colours: below 1 a shadow, above 1 a highlight.
        alpha: opacity, 0 to 1.
        blur: sigma of the soft edge in pixels.
        thickness: width of the outline in pixels; 0 fills the polygon.
        clip: polygon that limits the painted area.
    """
    low, high = _box(outline, 3 * blur + thickness + 1, image.shape[0])
    if (high <= low).any():
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    mask = _coverage(part.shape[:2], outline, low, thickness)
    if blur > 0:
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
    if clip is not None:
        mask *= _coverage(part.shape[:2], clip, low)
    goal = part * np.float32(colour) if np.ndim(colour) == 0 else np.float32(colour)
    part += (mask * np.float32(alpha))[..., None] * (goal - part)


def _project(person: Person, pose: Pose, uv: Points, side: int, lift: float = 0.0) -> np.ndarray:
    """Project face coordinates (N x 2), raised by `lift`, to pixels (N x 2) of a side x side image."""
    uv = np.asarray(uv, np.float64)
    depth = np.sqrt(np.clip(1 - (uv**2).sum(1), 0, 1)) * _DEPTH + lift
    x, y = uv[:, 0] * person.width, uv[:, 1]
    cos, sin = np.cos(pose.yaw), np.sin(pose.yaw)
    x, depth = x * cos + depth * sin, depth * cos - x * sin
    y = y * np.cos(pose.pitch) + depth * np.sin(pose.pitch)
    return _place(pose, np.stack([x, y], 1), side)


def _place(pose: Pose, points: np.ndarray, side: int) -> np.ndarray:
    """Rotate by the roll, scale and shift points (N x 2, in half head heights) to pixels."""
    cos, sin = np.cos(pose.roll), np.sin(pose.roll)
    return (points @ np.array([[cos, sin], [-sin, cos]]) * pose.scale + [pose.x, pose.y]) * side


def _half_width(person: Person, pose: Pose) -> float:
    """Return half the visible width of the head, in units of half its height."""
    return math.hypot(person.width * math.cos(pose.yaw), _DEPTH * math.sin(pose.yaw))


def _outline(
    person: Person,
    pose: Pose,
    side: int,
    grow: float = 1.0,
    start: float = 0.0,
    stop: float = 2 * np.pi,
    count: int = 48,
) -> np.ndarray:
    """Return the silhouette of the head (count x 2 pixels) between two angles: 0 right, pi/2 chin, 3pi/2 crown."""
    angle = np.linspace(start, stop, count)
    u, v = np.cos(angle), np.sin(angle)
    below = np.clip(v, 0, 1)
    u = np.where(v > 0, np.sign(u) * np.abs(u) ** person.square, u) * (1 - person.jaw * below**2)
    x = u * _half_width(person, pose) + 0.25 * np.sin(pose.yaw) * below**2
    y = v + 0.2 * np.sin(pose.pitch) * below**2
    return _place(pose, np.stack([x, y], 1) * grow, side)


def landmarks(person: Person, pose: Pose, size: int) -> np.ndarray:
    """Return 15 x 2 pixels: eyes (2), nose tip, mouth corners (2), mouth centre, chin, jaw (4), brows (4)."""
    p, brow = person, person.eye_y - person.brow[0] - 0.08
    inner = [
        (-p.eye_x, p.eye_y),
        (p.eye_x, p.eye_y),
        (0, p.nose[1]),
        (-p.mouth_width, p.mouth_y),
        (p.mouth_width, p.mouth_y),
        (0, p.mouth_y),
    ]
    top = [(-p.eye_x - 0.26, brow + 0.08), (-0.2, brow), (0.2, brow), (p.eye_x + 0.26, brow + 0.08)]
    jaw = _outline(p, pose, size, 0.92, 0, np.pi, 7)
    return np.concatenate([_project(p, pose, inner, size), jaw[3:4], jaw[[0, 1, 5, 6]], _project(p, pose, top, size)])


def render(person: Person, scene: Scene, pose: Pose, size: int) -> np.ndarray:
    """Draw a person without camera blur and noise: size x size x 3, RGB, float32, 0 to 255."""
    side = size * OVERSAMPLING
    image = scene.background.copy()
    brush = _brush_for(image, person, pose)
    _behind_face(image, person, scene, pose, side)
    _skin(image, person, scene, pose, side)
    for sign in (-1, 1):
        _eye(brush, person, pose, sign)
    _nose(brush, person, dark=1 if scene.light[0] < 0 else -1)
    _mouth(brush, person, pose)
    _age_and_beard(brush, person)
    _hair(image, person, scene, pose, side)
    if person.glasses:
        for sign in (-1, 1):
            rim = _ellipse((sign * person.eye_x, person.eye_y + 0.03), 0.27, 0.17)
            brush(rim, person.hair * 0.4, 0.8, 0.006, 0.03, lift=0.05)
        brush([(-0.14, person.eye_y), (0.14, person.eye_y)], person.hair * 0.4, 0.8, width=0.03, lift=0.1)
    image *= scene.light_colour * scene.exposure
    return np.clip(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), 0, 255)


def _brush_for(image: np.ndarray, person: Person, pose: Pose) -> Callable[..., None]:
    """Return a `paint` that takes face coordinates, with blur and line width in half head heights."""
    side = image.shape[0]
    unit = side * pose.scale

    def brush(
        uv: Points,
        colour: np.ndarray | float,
        alpha: float,
        blur: float = 0.0,
        width: float = 0.0,
        lift: float = 0.0,
        within: Points | None = None,
    ) -> None:
        clip = None if within is None else _project(person, pose, within, side, lift)
        paint(image, _project(person, pose, uv, side, lift), colour, alpha, blur * unit, width * unit, clip)

    return brush


def _ellipse(centre: tuple[float, float], across: float, down: float, count: int = 24) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count)
    return np.array(centre) + np.stack([across * np.cos(angle), down * np.sin(angle)], 1)


def _band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the outline of the area between two curves over x."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def _behind_face(image: np.ndarray, person: Person, scene: Scene, pose: Pose, side: int) -> None:
    if person.hair_style == "long":
        back = _outline(person, pose, side, person.volume * 1.08, np.pi * 0.8, np.pi * 2.2)
        ends = _place(pose, np.array([[person.width * 1.15, 1.35], [-person.width * 1.15, 1.35]]), side)
        paint(image, np.concatenate([back, ends]), person.hair * 0.75, 1.0, 2)
    neck = np.array(
        [[-0.42, 0.5], [0.42, 0.5], [0.46, 1.25], [1.3, 1.5], [1.5, 2.2], [-1.5, 2.2], [-1.3, 1.5], [-0.46, 1.25]]
    ) * [person.width + 0.25, 1]
    level = replace(pose, roll=0.0)
    paint(image, _place(level, neck, side), person.skin * 0.72, 1.0, 1)
    collar = np.array([[-0.5, 1.22], [0, 1.45], [0.5, 1.22], [1.4, 1.45], [1.6, 2.2], [-1.6, 2.2], [-1.4, 1.45]])
    paint(image, _place(level, collar, side), scene.shirt, 1.0, 1)
    for sign in (-1, 1):
        x = sign * (_half_width(person, pose) + 0.02) - 0.3 * np.sin(pose.yaw)
        paint(image, _place(pose, _ellipse((x, 0.05), person.ears, 0.2), side), person.skin * 0.86, 1.0, 1)
        paint(image, _place(pose, _ellipse((x, 0.05), person.ears * 0.5, 0.11), side), 0.8, 1.0, 2)


def _skin(image: np.ndarray, person: Person, scene: Scene, pose: Pose, side: int) -> None:
    """Fill the silhouette with skin: the person's texture, shaded like an ellipsoid."""
    outline = _outline(person, pose, side)
    low, high = _box(outline, 3, side)
    part = image[low[1] : high[1], low[0] : high[0]]
    mask = cv2.GaussianBlur(_coverage(part.shape[:2], outline, low), (0, 0), 1)[..., None]
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    x, y = (x / side - pose.x) / pose.scale, (y / side - pose.y) / pose.scale
    cos, sin = math.cos(pose.roll), math.sin(pose.roll)
    u, v = (x * cos + y * sin) / _half_width(person, pose), y * cos - x * sin
    depth = np.sqrt(np.clip(1 - 0.85 * (u**2 + v**2), 0.05, 1))
    length = np.sqrt(u**2 + v**2 + depth**2)
    facing = (u * scene.light[0] + v * scene.light[1] + depth * scene.light[2]) / length
    light = scene.ambient + (1 - scene.ambient) * np.clip(facing, 0, 1)
    across = (u * math.cos(pose.yaw) - depth * math.sin(pose.yaw)) * 63 + 64
    down = (v * math.cos(pose.pitch) - depth * math.sin(pose.pitch)) * 63 + 64
    light *= cv2.remap(person.texture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    halfway = scene.light + np.array([0, 0, 1], np.float32)  # between light and camera (Blinn-Phong)
    halfway /= np.linalg.norm(halfway)
    mirror = np.clip((u * halfway[0] + v * halfway[1] + depth * halfway[2]) / length, 0, 1) ** 24
    part += mask * (person.skin * light[..., None] + (person.shine * mirror)[..., None] - part)


def _eye(brush: Callable[..., None], person: Person, pose: Pose, sign: int) -> None:
    x, y = sign * person.eye_x, person.eye_y
    wide, high = person.eye_size
    s = np.linspace(-1, 1, 11)
    slant = person.eye_slant * s * sign
    lid = y - high * (1 - pose.blink) * (1 - s**2) - slant
    eye = _band(x + wide * s, lid, y + 0.6 * high * (1 - s**2) - slant)
    brush(_ellipse((x, y - 0.04), wide * 1.25, high * 1.7), 0.8, 0.7, 0.05)
    brush(eye, np.array([217, 213, 209]), 1.0, 0.008)
    iris = (x + 0.06 * pose.gaze, y - 0.01)
    narrow = 0.088 / person.width
    brush(_ellipse(iris, narrow, 0.088), person.iris, 1.0, 0.006, within=eye)
    brush(_ellipse(iris, narrow * 0.48, 0.042), np.array([12, 10, 10]), 1.0, 0.006, within=eye)
    glint = _ellipse((iris[0] + 0.03, iris[1] - 0.03), 0.025, 0.022)
    brush(glint, np.array([255, 255, 255]), 0.9, 0.006, within=eye)
    brush(np.stack([x + wide * s * 1.05, lid], 1), person.skin * 0.2, 0.85, 0.008, 0.03)
    brush(np.stack([x + wide * s, lid - 0.055], 1), 0.72, 0.7, 0.012, 0.02)
    above, arch, thick = person.brow
    arc = y - above - arch * (1 - (s * sign * 0.8 - 0.3) ** 2) + 0.03 * pose.blink
    taper = thick * (1.15 - 0.5 * (s * sign + 1) / 2)
    brush(_band(x + 0.24 * s, arc - taper, arc + taper), person.hair * 0.7, 0.8, 0.018)


def _nose(brush: Callable[..., None], person: Person, dark: int) -> None:
    """Draw the nose; `dark` is the side in shadow, -1 left or 1 right."""
    wide, tip = person.nose
    top = person.eye_y
    flank = [(0.05, top), (0.05, tip), (wide * 1.2, tip + 0.05), (wide, tip - 0.12)]
    brush(np.array(flank) * [dark, 1], 0.72, 0.75, 0.035, lift=0.08)
    brush([(-0.02 * dark, top + 0.05), (-0.03 * dark, tip - 0.06)], 1.14, 0.8, 0.03, 0.06, lift=0.14)
    brush(_ellipse((-0.02 * dark, tip - 0.03), 0.06, 0.05), 1.16, 0.8, 0.025, lift=0.16)
    brush(_ellipse((0, tip + 0.11), wide, 0.035), 0.72, 0.8, 0.03, lift=0.04)
    for sign in (-1, 1):
        wing = [(wide * 0.95, tip - 0.06), (wide * 1.15, tip + 0.02), (wide * 0.95, tip + 0.07)]
        brush(np.array(wing) * [sign, 1], 0.62, 0.7, 0.012, 0.025, lift=0.05)
        brush(_ellipse((sign * wide * 0.5, tip + 0.06), 0.042, 0.024), 0.3, 0.85, 0.01, lift=0.1)


def _mouth(brush: Callable[..., None], person: Person, pose: Pose) -> None:
    s = np.linspace(-1, 1, 15)
    bow = 1 - s**2
    x = person.mouth_width * (1 + 0.15 * pose.smile) * s
    line = person.mouth_y + 0.04 * pose.smile * (1 - 2 * s**2)
    gap, (upper, lower), lift = 0.8 * pose.open * bow, person.lips, 0.03
    chin_dent = _ellipse((0, person.mouth_y + lower + 0.1 + 0.6 * pose.open), 0.16, 0.03)
    brush(chin_dent, 0.8, 0.8, 0.03)
    cupid = upper * (bow - 0.25 * np.exp(-((s * 5) ** 2)))
    lips = _band(x, line - cupid - gap * 0.3, line + lower * bow + gap * 0.7)
    brush(lips, person.lip_colour, 0.95, 0.012, lift=lift)
    full = _band(x, line + gap + lower * 0.3 * bow, line + lower * 0.7 * bow + gap * 0.7)
    brush(full, 1.15, 0.8, 0.015, lift=lift)
    inside = _band(x, line - gap * 0.3 - 0.004, line + gap * 0.7 + 0.004)
    brush(inside, np.array([46, 16, 18]), 1.0, 0.004, lift=lift)
    shut = pose.open < 0.07
    if not shut:
        teeth = _band(x, line - gap * 0.3, line + np.minimum(gap * 0.7, 0.03))
        brush(teeth, np.array([232, 228, 218]), 0.95, 0.006, lift=lift, within=inside)
    brush(np.stack([x, line], 1), 0.4, 0.6 if shut else 0.1, 0.008, 0.02, lift=lift)


def _age_and_beard(brush: Callable[..., None], person: Person) -> None:
    for sign in (-1, 1):
        red = np.array([210, 96, 90]) * (0.4 + person.skin[0] / 420)
        brush(_ellipse((sign * 0.5, 0.28), 0.2, 0.16), red, person.blush, 0.09)
        fold = [(sign * 0.2, 0.26), (sign * 0.32, 0.38), (sign * 0.38, person.mouth_y)]
        brush(fold, 0.7, 0.75 * person.age, 0.02, 0.025)
    for v in (-0.5, -0.42):
        brush([(-0.35, v + 0.02), (0, v), (0.35, v + 0.02)], 0.8, 0.6 * person.age, 0.012, 0.02)
    if person.beard > 0:
        side = np.array([(-0.85, 0.1), (-0.7, 0.35), (-0.42, 0.42), (-0.3, 0.4), (0, 0.37)])
        low = np.array([(0.6, 0.72), (0.3, 0.92), (0, 0.99), (-0.3, 0.92), (-0.6, 0.72)])
        ring = np.concatenate([side, side[::-1] * [-1, 1], low])
        mouth = _ellipse((0, person.mouth_y + 0.01), person.mouth_width * 0.95, person.lips[1] + 0.05)
        # The outline follows the beard and then the mouth, so that the lips stay unpainted.
        both = np.concatenate([ring, ring[:1], mouth, ring[:1]])
        brush(both, person.hair * 0.8, person.beard, 0.035)


def _hair(image: np.ndarray, person: Person, scene: Scene, pose: Pose, side: int) -> None:
    if person.hair_style == "bald":
        return
    extra = 0.02 if person.hair_style == "cap" else 0.1
    outer = _outline(person, pose, side, person.volume, np.pi * (1 - extra), np.pi * (2 + extra))
    top = person.hairline + (0.16 if person.hair_style == "fringe" else 0)
    u = np.linspace(0.99, -0.99, 15)
    drop = np.abs(u - person.parting * (1 - np.abs(u))) ** (4 if person.hair_style == "fringe" else 2.5)
    v = np.minimum(top + (0.45 - top * 0.6) * drop, np.sqrt(1 - u**2) * 1.2 + 0.05)
    line = _project(person, pose, np.stack([u, np.clip(v, -0.95, 0.2)], 1), side)
    shape = np.concatenate([outer, line])
    mask = _coverage((side, side), shape)
    radius = round(0.17 * pose.scale * side)
    if person.hair_style == "curly":
        for centre in _outline(person, pose, side, person.volume, np.pi * 0.95, np.pi * 2.05, 16):
            cv2.circle(mask, tuple(int(c) for c in centre), radius, 1, -1)
    low, high = _box(shape, radius + 5, side)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    mask = cv2.GaussianBlur(mask[window], (0, 0), 1.5)[..., None]
    y, x = (np.arange(a, b, dtype=np.float32) / side for a, b in ((low[1], high[1]), (low[0], high[0])))
    down = ((y - pose.y + 0.75 * pose.scale) / 0.06) ** 2
    across = ((x - pose.x - 0.2 * scene.light[0]) / 0.2) ** 2
    sheen = 1 + 0.35 * np.exp(-down)[:, None] * np.exp(-across)
    strands = np.roll(cv2.resize(person.strands, (side, side)), round(pose.x * side), 1)
    image[window] += mask * (person.hair * (strands[window] * sheen)[..., None] - image[window])
