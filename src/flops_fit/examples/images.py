"""Images with class labels, from the files of Fashion-MNIST or of a dataset in the same format.

`prepare` turns a Debian package or a folder of four idx files into NumPy arrays; `images` reads
them as two datasets of (image, label). D counts images.
"""

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json, write_atomic, write_json

PARTS = {"train": "train", "heldout": "t10k"}  # and their names in the four files
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60  # a .deb is an ar(5) file; name in bytes 0-16, size in 48-58
UNSIGNED_BYTES = 8  # the only type of idx files that these datasets use


# -- Preparing ------------------------------------------------------------------------------------


def prepare(directory: str | Path, sources: str | Sequence[str]) -> dict:
    """Write the images and labels of both parts as ``.npy`` files, then ``meta.json``.

    They go to ``directory``. ``sources`` holds one name: a folder with
    ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz`` and the same two files of
    ``t10k``, or the Debian package ``dataset-fashion-mnist`` as a ``.deb`` file, which need not be
    installed. The 10,000 images of ``t10k`` are held out.

    Returns the content of meta.json: ``classes``, ``shape`` of an image, ``mean`` and ``std`` of
    the values of the training images (between 0 and 1), and the number of images of each part.

    Raises FlopsFitError for a file that is missing, truncated, or not an idx file of bytes.
    """
    sources = [sources] if isinstance(sources, str) else list(sources)
    if len(sources) != 1:
        raise FlopsFitError(f"sources = {sources}: allowed: one folder of idx files, or one .deb")
    read = _deb_reader(sources[0]) if sources[0].endswith(".deb") else _folder_reader(sources[0])
    arrays = {part: _images_and_labels(read, name) for part, name in PARTS.items()}
    train_images, train_labels = arrays["train"]
    meta = {
        "classes": int(train_labels.max()) + 1,
        "shape": [1, *train_images.shape[1:]],
        "mean": float(train_images.mean() / 255),
        "std": float(train_images.std() / 255),
    }
    directory = Path(directory)
    (directory / "meta.json").unlink(missing_ok=True)  # written again when the other files are
    for part, (images, labels) in arrays.items():
        _save(directory / f"{part}_images.npy", images[:, None])
        _save(directory / f"{part}_labels.npy", labels)
        meta[part] = len(labels)
    write_json(directory / "meta.json", meta)
    return meta


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getbuffer())


def _images_and_labels(read: Callable, name: str) -> tuple[np.ndarray, np.ndarray]:
    images = _idx(read, f"{name}-images-idx3-ubyte.gz", 3)
    labels = _idx(read, f"{name}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels):
        raise FlopsFitError(f"{name}: {len(images)} images, but {len(labels)} labels")
    return images, labels


def _idx(read: Callable[[str], bytes], name: str, dimensions: int) -> np.ndarray:
    """Read an idx file: two zero bytes, type, dimensions, big-endian sizes, values."""
    try:
        data = gzip.decompress(read(name))
    except (OSError, EOFError) as error:
        raise FlopsFitError(f"{name}: {error}") from None
    header = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]) or len(data) < header:
        raise FlopsFitError(f"{name}: no idx file of bytes with {dimensions} dimensions")
    shape = np.frombuffer(data[4:header], ">u4").tolist()
    if len(data) - header != np.prod(shape):
        raise FlopsFitError(f"{name}: {len(data) - header} values where its head says {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _folder_reader(folder: str) -> Callable[[str], bytes]:
    return lambda name: Path(folder, name).read_bytes()


def _deb_reader(deb: str) -> Callable[[str], bytes]:
    wanted = {
        f"{part}-{kind}-ubyte.gz"
        for part in PARTS.values()
        for kind in ("images-idx3", "labels-idx1")
    }
    try:
        packed = lzma.decompress(_ar_member(Path(deb).read_bytes(), "data.tar.xz"))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            files = {name: archive.extractfile(members[name]).read() for name in wanted}
    except (OSError, ValueError, KeyError, lzma.LZMAError, tarfile.TarError) as error:
        raise FlopsFitError(f"{deb}: not readable as the Debian package ({error})") from None
    return files.__getitem__


def _ar_member(content: bytes, wanted: str) -> bytes:
    if not content.startswith(AR_MAGIC):
        raise ValueError("it does not begin as an ar archive")
    position = len(AR_MAGIC)
    while position < len(content):
        header = content[position : position + AR_HEADER]
        start, size = position + AR_HEADER, int(header[48:58])
        if header[:16].decode().strip().rstrip("/") == wanted:
            return content[start : start + size]
        position = start + size + size % 2  # members begin at even positions
    raise KeyError(wanted)


# -- Reading --------------------------------------------------------------------------------------


class Images(Dataset):
    """Item i is ``(image, label)``: float32 (channels, height, width), normalised, and int64 ().

    All images are kept in memory as bytes and converted to floats batch by batch.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean: float, std: float):
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels).long()
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index] * self.scale + self.shift, self.labels[index]

    def get_batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the items at ``indices``, stacked."""
        return self[torch.as_tensor(indices)]


def images(data_dir: str | Path) -> tuple[Images, Images]:
    """Return the (train, heldout) datasets that `prepare` wrote to ``data_dir``.

    Both are normalised by the mean and standard deviation of the training images.
    """
    folder = Path(data_dir)
    meta = read_json(folder / "meta.json")
    return tuple(
        Images(
            *(
                np.load(folder / f"{part}_{kind}.npy", allow_pickle=False)
                for kind in ("images", "labels")
            ),
            meta["mean"],
            meta["std"],
        )
        for part in PARTS
    )


def example_item(**_) -> tuple[Tensor, Tensor]:
    """Return an item with the shape and type of Fashion-MNIST, without reading data."""
    return torch.zeros(1, 28, 28), torch.zeros((), dtype=torch.int64)
