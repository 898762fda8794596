"""The image of envs/Dockerfile, built on this machine without a container daemon, as root.

buildah builds it from the files that git knows, in a store of its own. Docker's base image stands on
no package registry: Debian's own Python of the same minor version takes its place, unpacked by
mmdebstrap. Where pip finds packages on this machine (its settings, and the folders and certificates
that they name) is mounted for the build and is not in the image.
"""

import ast
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from system import Refusal, apt_install, call

ROOT = Path(__file__).parents[2]
PROGRAMS = ("buildah", "crun", "mmdebstrap")
SUITES = {"3.11": "bookworm", "3.13": "trixie"}  # Debian's releases by their Python
PACKAGES = ("python3", "python3-pip", "python3-venv", "python-is-python3", "ca-certificates")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FREE = 12e9  # bytes: the base, the build and the container are whole copies
CPU_TORCH = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Image:
    """An image in its ``store``, and a container of it."""

    store: Path
    container: str

    def command(self, *line: str, work: Path, user: int) -> list[str]:
        """How to run ``line`` in the image as the user of that number, in the mounted ``work``."""
        options = ("--isolation", "chroot", "--user", f"{user}:{user}", "--volume", f"{work}:/work")
        return [*buildah(self.store), "run", *options, self.container, "--", *line]


def build(store: Path) -> Image:
    """Install what is missing, and build the image of the working copy in the folder ``store``."""
    refuse_where_it_cannot_be_built(store)
    apt_install(PROGRAMS, PROGRAMS)
    name = re.search(r"^FROM (\S+)$", dockerfile(), re.MULTILINE)[1]
    make_base(store, name)
    sources = archive(store / "sources")
    options = ["--isolation", "chroot", "--network", "host", "--pull-never"]
    for outside, inside in pip_mounts(store).items():
        options += ["--volume", f"{outside}:{inside}:ro"]
    line = [
        *buildah(store),
        "bud",
        *options,
        "--file",
        "envs/Dockerfile",
        "--tag",
        "flops-fit",
        ".",
    ]
    try:
        call(*line, cwd=sources, env={**os.environ, "TMPDIR": str(store)})
    except RuntimeError as error:
        raise RuntimeError(
            f"{error}\nThe tests accept torch's build for CPUs alone; where it is missing, set "
            f"PIP_EXTRA_INDEX_URL={CPU_TORCH}"
        ) from None
    return Image(store, call(*buildah(store), "from", "--pull-never", "flops-fit").strip())


def refuse_where_it_cannot_be_built(store: Path) -> None:
    """Raise `Refusal` unless this is a Debian of root's with room for the images."""
    if os.geteuid() != 0:
        raise Refusal("only root can unpack a base image and build upon it")
    if shutil.which("apt-get") is None:
        raise Refusal("the base image is made by Debian's tools, and there is no apt-get here")
    if (free := shutil.disk_usage(store).free) < FREE:
        raise Refusal(f"{store}: {free / 1e9:.0f} GB are free; needed: {FREE / 1e9:.0f}")


def make_base(store: Path, name: str) -> None:
    """Put Debian's Python into the store under the name of the Dockerfile's base image."""
    suite = SUITES[re.search(r":(\d+\.\d+)", name)[1]]
    root = store / "root.tar"
    include = f"--include={','.join(PACKAGES)}"
    call("mmdebstrap", "--quiet", "--variant=minbase", include, suite, str(root))
    container = call(*buildah(store), "from", "scratch").strip()
    call(*buildah(store), "add", container, str(root), "/")
    root.unlink()
    # Docker's own image has no package manager that pip could get in the way of.
    settings = ("--env", f"PATH={PATH}", "--env", "PIP_BREAK_SYSTEM_PACKAGES=1")
    call(*buildah(store), "config", *settings, container)
    call(*buildah(store), "commit", "--rm", container, f"docker.io/library/{name}")


def archive(folder: Path) -> Path:
    """The tracked files as they are now, in ``folder``: what a clean clone would hold."""
    folder.mkdir()
    changed = call("git", "stash", "create", cwd=ROOT).strip()  # a commit; it stashes nothing away
    packed = folder.with_suffix(".tar")
    call("git", "archive", "--output", str(packed), changed or "HEAD", cwd=ROOT)
    call("tar", "--extract", "--file", str(packed), "--directory", str(folder))
    packed.unlink()
    return folder


def pip_mounts(store: Path) -> dict[Path, str]:
    """What pip uses on this machine, and only torch's build for CPUs, as mounts for the build."""
    torch = re.search(r"^torch==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]
    cpu = store / "torch.txt"
    cpu.write_text(f"torch=={torch}+cpu\n")
    settings = pip_settings()
    settings["constraint"] = f"{settings.get('constraint', '')} {cpu}".strip()
    lines = [f"{key} = {' '.join(value.split())}" for key, value in sorted(settings.items())]
    (store / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    mounts = {store / "pip.conf": "/etc/pip.conf"}
    for word in " ".join(settings.values()).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            if word.startswith("file://"):
                path = path.parent  # the files lie beside such an index
            mounts[path] = str(path)
    return mounts


def pip_settings() -> dict[str, str]:
    """pip's settings for any command and for installing, from its files and the environment."""
    settings = {}
    for line in call(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in ("global", "install", ":env:"):
            settings[section, key] = ast.literal_eval(value)
    order = ("global", "install", ":env:")  # the last one wins, as in pip
    return {key: settings[section, key] for section in order for s, key in settings if s == section}


def buildah(store: Path) -> list[str]:
    """The command with its own store: whole copies, which any file system can hold."""
    return ["buildah", f"--root={store}/images", f"--runroot={store}/run", "--storage-driver=vfs"]


def dockerfile() -> str:
    return (ROOT / "envs" / "Dockerfile").read_text()
