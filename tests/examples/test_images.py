"""Images are read from what a package ships, as it ships it, and a small ViT learns from them."""

import gzip
import io
import lzma
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from flops_fit.config.load import load_config
from flops_fit.errors import FlopsFitError
from flops_fit.examples.images import example_item, images, prepare
from flops_fit.examples.loss import cross_entropy
from flops_fit.examples.vit import ViT, optimizer
from flops_fit.plan.counting import count_sizes

CONFIG = Path(__file__).parents[2] / "config" / "vit.yaml"
NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.tobytes(), mtime=0)


def arrays(train: int = 120, heldout: int = 40) -> dict[str, np.ndarray]:
    """Images whose mean brightness tells their class, beside noise."""
    generator = np.random.default_rng(0)
    made = {}
    for part, count in (("train", train), ("t10k", heldout)):
        labels = generator.integers(10, size=count, dtype=np.uint8)
        noise = generator.integers(30, size=(count, 28, 28), dtype=np.uint8)
        made[f"{part}-images-idx3-ubyte.gz"] = noise + (22 * labels)[:, None, None]
        made[f"{part}-labels-idx1-ubyte.gz"] = labels
    return made


def deb(files: dict[str, bytes], packed=lzma.compress, name: str = "data.tar.xz") -> bytes:
    """A Debian package: an ar archive of a version, a control part and a packed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = b"!<arch>\n"
    for member, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),  # so that the next member is padded
        (name, packed(buffer.getvalue())),
    ):
        content += f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        content += data + b"\n" * (len(data) % 2)
    return content


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "idx").mkdir()
    for name, array in arrays().items():
        (tmp_path / "idx" / name).write_bytes(idx(array))
    return tmp_path / "idx"


class TestPrepare:
    def test_a_package_and_a_folder_hold_the_same_images(self, folder, tmp_path):
        files = {name: (folder / name).read_bytes() for name in NAMES}
        (tmp_path / "fashion.deb").write_bytes(deb(files))
        meta = prepare(tmp_path / "a", str(folder))
        assert prepare(tmp_path / "b", [str(tmp_path / "fashion.deb")]) == meta
        assert (meta["train"], meta["heldout"], meta["classes"]) == (120, 40, 10)
        assert meta["shape"] == [1, 28, 28]
        for file in (tmp_path / "a").iterdir():
            assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()

    def test_every_image_comes_back_normalised_with_its_label(self, folder, tmp_path):
        prepare(tmp_path / "data", str(folder))
        train, heldout = images(tmp_path / "data")
        every = arrays()
        assert (len(train), len(heldout)) == (120, 40)
        mean, std = (f(every[NAMES[0]] / 255) for f in (np.mean, np.std))
        expected = torch.from_numpy((every[NAMES[2]] / 255 - mean) / std).float()
        inputs, labels = heldout.get_batch(range(40))
        assert torch.allclose(inputs[:, 0], expected, atol=1e-5)
        assert labels.tolist() == every[NAMES[3]].tolist()
        assert torch.equal(heldout[7][0], inputs[7])
        for made, real in zip(example_item(), heldout[0], strict=True):
            assert (made.shape, made.dtype) == (real.shape, real.dtype)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (NAMES[0], None, r"train-images.*No such file"),
            (NAMES[0], b"no gzip", r"train-images-idx3-ubyte\.gz: Not a gzipped file"),
            (NAMES[2], idx(np.zeros((40, 28), np.uint8)), r"t10k-images.*with 3 dimensions"),
            (NAMES[1], idx(np.zeros(7, np.uint8)), r"train: 120 images, but 7 labels"),
            (
                NAMES[3],
                gzip.compress(idx(np.zeros(0, np.uint8)), mtime=0),
                r"t10k-labels.*no idx file",
            ),
            (
                NAMES[3],
                gzip.compress(gzip.decompress(idx(np.zeros(40, np.uint8)))[:-1], mtime=0),
                r"t10k-labels-idx1-ubyte\.gz: 39 values where its head says \[40\]",
            ),
        ],
        ids=["missing", "no gzip", "two dimensions", "too few labels", "no idx", "cut short"],
    )
    def test_unfit_files_are_refused_by_name(self, folder, tmp_path, name, content, message):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(FlopsFitError, match=message):
            prepare(tmp_path / "data", str(folder))
        assert not (tmp_path / "data" / "meta.json").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"PK zip", "it does not begin as an ar archive"),
            (deb({}), "train-|t10k-"),
            (deb({}, name="data.tar.zst"), "data.tar.xz"),
            (deb({})[:-40], "not readable as the Debian package"),
        ],
    )
    def test_other_packages_are_refused(self, tmp_path, content, message):
        (tmp_path / "other.deb").write_bytes(content)
        with pytest.raises(
            FlopsFitError, match=rf"other\.deb: not readable as .*{message}|{message}"
        ):
            prepare(tmp_path / "data", str(tmp_path / "other.deb"))

    def test_two_sources_are_refused(self, tmp_path):
        with pytest.raises(FlopsFitError, match=r"one folder of idx files, or one \.deb"):
            prepare(tmp_path, ["a", "b"])


class TestViT:
    def test_flops_per_image_are_those_by_hand(self):
        config = load_config(CONFIG)
        sizes = [12, 64]
        counts = count_sizes(
            ViT, "d_model", sizes, config["model"]["kwargs"], example_item(), cross_entropy, 1
        )
        for d in sizes:
            count, patches = counts[d], 49
            blocks = 2 * 12 * d**2
            assert count.params == blocks + 16 * d + 10 * d
            # Each weight meets 49 patches but the head's, which meet one mean; the image needs no
            # gradient; attention is 12 T^2 d a layer.
            expected = 6 * patches * blocks + 4 * patches * 16 * d + 6 * 10 * d
            assert count.flops_per_token == expected + 2 * 12 * patches**2 * d
            assert count.method == "meta"

    def test_patches_cut_the_image_without_mixing_its_places(self):
        model = ViT(16)
        with torch.no_grad():
            model.embedding.weight.copy_(torch.eye(16))
            model.positions.zero_()
        seen = []
        model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        image = torch.arange(784.0).view(1, 1, 28, 28)
        model(image)
        assert torch.equal(seen[0][0, 8].view(4, 4), image[0, 0, 4:8, 4:8])

    def test_a_patch_that_does_not_divide_the_image_is_refused(self):
        with pytest.raises(ValueError, match="patch = 5 does not divide image_size = 28"):
            ViT(16, patch=5)

    def test_every_parameter_is_trained_by_exactly_one_group(self):
        model = ViT(32)
        owned = [p for o in optimizer(model) for g in o.param_groups for p in g["params"]]
        assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))

    def test_it_starts_at_the_log_of_the_classes_and_learns(self, folder, tmp_path):
        prepare(tmp_path / "data", str(folder))
        train, heldout = images(tmp_path / "data")
        torch.manual_seed(0)
        model = ViT(16)
        optimizers, losses = optimizer(model, lr=0.02), []
        for _ in range(40):
            inputs, labels = train.get_batch(range(120))
            loss = cross_entropy(model(inputs), labels)
            losses.append(loss.item())
            model.zero_grad()
            loss.backward()
            for each in optimizers:
                each.step()
        assert losses[0] == pytest.approx(math.log(10), abs=1e-5)
        with torch.no_grad():
            inputs, labels = heldout.get_batch(range(40))
            assert cross_entropy(model(inputs), labels) < 0.5 * losses[0]


def test_the_config_repeats_the_60_000_images_no_more_than_it_says():
    config = load_config(CONFIG)
    sizes = sorted({size for sizes in config["sizes"]["per_budget"].values() for size in sizes})
    counts = count_sizes(
        ViT, "d_model", sizes, config["model"]["kwargs"], example_item(), cross_entropy, 1
    )
    epochs = [
        budget / counts[size].flops_per_token / 60_000
        for budget, own in config["sizes"]["per_budget"].items()
        for size in own
    ]
    assert 1 < max(epochs) < config["limits"]["max_epochs"]
