"""What is wrong with the machine and what is installed on it. Imports nothing that a fault would break."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

from mtseg.doctor.finding import Finding, megabytes

SHARED_MEMORY = Path("/dev/shm")
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
FILES = 1024  # open files that loading processes may want; Linux's own default


@dataclass(frozen=True)
class Machine:
    """What is there. `versions` by name of what is installed; `broken`: what importing torchvision said."""

    versions: dict[str, str]
    broken: str
    shared_memory: int | None  # free bytes; None: the system has no such place
    open_files: int | None


def machine() -> Machine:
    """Look at this machine. Imports torchvision, and with it torch."""
    names = {(found.metadata["Name"] or "").lower().replace("_", "-"): found.version for found in distributions()}
    wanted = ("torch", "torchvision", "albumentations", "albumentationsx", *OPENCVS)
    shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    return Machine({name: names[name] for name in wanted if name in names}, _broken(), shared, _open_files())


def of_installation(here: Machine) -> Iterator[Finding]:
    """The findings that concern every run."""
    versions = here.versions
    if here.broken:
        pair = " does not work with ".join(
            f"{name} {versions.get(name, '(none)')}" for name in ("torchvision", "torch")
        )
        text = f"{pair}: {here.broken}; install the pair of one release, as with: pip install -U torch torchvision"
        yield Finding("error", "torchvision", text)
    opencvs = [name for name in OPENCVS if name in versions]
    if len(opencvs) > 1:
        text = (
            f"{' and '.join(opencvs)} are installed and overwrite each other's cv2: pip uninstall {' '.join(opencvs)}, "
            "then pip install opencv-python-headless"
        )
        yield Finding("warning", "two-opencvs", text)
    if "albumentationsx" in versions:
        text = (
            f"albumentationsx {versions['albumentationsx']} is installed, which takes the place of albumentations "
            "under its name (and is AGPL): pip uninstall albumentationsx, then install albumentations again"
        )
        yield Finding("warning", "albumentationsx", text)


def of_loading(here: Machine, *, workers: int, waiting: int) -> Iterator[Finding]:
    """The findings for `workers` loading processes that hold `waiting` bytes of batches ready."""
    if not workers:
        return
    if here.shared_memory is not None and here.shared_memory < waiting:
        text = (
            f"{SHARED_MEMORY} has {megabytes(here.shared_memory)} free and the workers' batches take "
            f"{megabytes(waiting)}, so they die of a bus error: enlarge it (docker run --shm-size=8g, or --ipc=host), "
            "or set workers=0"
        )
        yield Finding("error", "shared-memory", text)
    if here.open_files is not None and here.open_files < FILES:
        text = f"{here.open_files} open files are allowed, workers may want {FILES}: ulimit -n 65536, or fewer workers"
        yield Finding("warning", "open-files", text)


def _broken(load: Callable[[str], object] = import_module) -> str:
    try:
        load("torchvision")
    except Exception as error:  # a torchvision of another release fails in its own ways, mostly at torchvision::nms
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft
