"""Compare file formats for packed images: a memory-mapped file, LMDB, WebDataset and Arrow.

    pip install lmdb webdataset pyarrow
    python -m benchmarks.pack_formats [--size 224] [--images 4000] [--folder FOLDER]

Every format holds the same uncompressed uint8 images. The command writes them, then reads them in turns, in a random
order as training does; WebDataset reads in order with a shuffle buffer, because it has no random access. All reads copy
the image into an array. The command prints the CPU time and the disk space of an image. The files are in the system's
cache, so the disk plays no part.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROUNDS = 5
Reader = Callable[[np.ndarray], Iterator[np.ndarray]]


def memmap(folder: Path, images: Iterator[np.ndarray], shape: tuple[int, ...]) -> Reader:
    """Write one file of images."""
    file = folder / "images.bin"
    with file.open("wb") as out:
        for image in images:
            out.write(image.data)
    mapped = np.asarray(np.memmap(file, np.uint8, "r", shape=shape))
    return lambda order: (mapped[number].copy() for number in order)


def lmdb(folder: Path, images: Iterator[np.ndarray], shape: tuple[int, ...]) -> Reader:
    """Write one LMDB database with a key for each image."""
    import lmdb

    file = str(folder / "images.lmdb")
    with lmdb.open(file, subdir=False, map_size=2**40) as database:
        for start in range(0, shape[0], 256):
            with database.begin(write=True) as transaction:
                for number in range(start, min(start + 256, shape[0])):
                    transaction.put(b"%08d" % number, next(images).tobytes())
    opened = lmdb.open(file, subdir=False, readonly=True, lock=False, readahead=False)

    def read(order: np.ndarray) -> Iterator[np.ndarray]:
        with opened.begin(buffers=True) as transaction:
            for number in order:
                yield np.frombuffer(transaction.get(b"%08d" % number) or b"", np.uint8).reshape(shape[1:]).copy()

    return read


def webdataset(folder: Path, images: Iterator[np.ndarray], shape: tuple[int, ...]) -> Reader:
    """Write tar files of 1000 images."""
    import webdataset

    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"{number:08d}", "image": image.tobytes()})
    shards = sorted(map(str, folder.glob("*.tar")))

    def read(order: np.ndarray) -> Iterator[np.ndarray]:
        for sample in webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000):
            yield np.frombuffer(sample["image"], np.uint8).reshape(shape[1:]).copy()

    return read


def arrow(folder: Path, images: Iterator[np.ndarray], shape: tuple[int, ...]) -> Reader:
    """Write one Arrow file with a column of fixed-size binary values."""
    import pyarrow

    file, size = str(folder / "images.arrow"), int(np.prod(shape[1:]))
    schema = pyarrow.schema([("image", pyarrow.binary(size))])
    with pyarrow.ipc.new_file(file, schema) as writer:
        for start in range(0, shape[0], 256):
            rows = [next(images).tobytes() for _ in range(start, min(start + 256, shape[0]))]
            writer.write_batch(pyarrow.record_batch([pyarrow.array(rows, pyarrow.binary(size))], schema=schema))
    column = pyarrow.ipc.open_file(pyarrow.memory_map(file)).read_all()["image"]
    return lambda order: (
        np.frombuffer(column[int(number)].as_buffer(), np.uint8).reshape(shape[1:]).copy() for number in order
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=4000, help="number of images (default: 4000)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    args = parser.parse_args()
    shape = (args.images, args.size, args.size, 3)

    def images() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        yield from (rng.integers(0, 256, shape[1:], dtype=np.uint8) for _ in range(args.images))

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        readers, sizes, times = {}, {}, {}
        for write in (memmap, lmdb, webdataset, arrow):
            target = Path(folder) / write.__name__
            target.mkdir()
            readers[write.__name__] = write(target, images(), shape)
            sizes[write.__name__] = sum(file.stat().st_blocks * 512 for file in target.iterdir()) / args.images
            times[write.__name__] = list[float]()
        for turn in range(ROUNDS):
            for name, read in readers.items():
                start = time.process_time()
                total = sum(int(image[0, 0, 0]) for image in read(np.random.default_rng(turn).permutation(args.images)))
                times[name].append((time.process_time() - start) / args.images)
                assert total == sum(int(image[0, 0, 0]) for image in images()) or turn, name  # every image once
        for name, seconds in times.items():
            print(f"{name:12s} {statistics.median(seconds) * 1e6:7.1f} us, {sizes[name]:9.0f} bytes per image")


if __name__ == "__main__":
    main()
