"""The files of onnxruntime-web that a page ships: from a folder, or from the npm registry when the page is built."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["VERSION", "find_runtime"]

VERSION = "1.30.0"
"""The version that the page was tested with."""
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_SECONDS = 120


def find_runtime(folder: Path | None = None) -> tuple[Path, ...]:
    """The runtime's files in an unpacked onnxruntime-web, or, without a folder, from npm's registry (kept in a cache).

    Raises FinerCAMError where they are not there and cannot be fetched.
    """
    if folder is not None:
        for place in (folder, folder / "dist", folder / "package" / "dist", folder / "onnxruntime-web" / "dist"):
            if all((place / name).is_file() for name in FILES):
                return tuple(place / name for name in FILES)
        raise FinerCAMError(f"{folder} has no {FILES[0]}; {_advice()}")
    cache = Path.home() / ".cache" / "finercam" / f"onnxruntime-web-{VERSION}"
    if not all((cache / name).is_file() for name in FILES):
        _fetch(cache)
    return tuple(cache / name for name in FILES)


def _fetch(cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FinerCAMError(f"the page needs onnxruntime-web, and npm is not installed here; {_advice()}")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            npm,
            "pack",
            f"onnxruntime-web@{VERSION}",
            "--silent",
            "--fetch-retries=1",
            "--fetch-timeout=20000",
        ]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS)
            (packed,) = Path(folder).glob("*.tgz")
            with tarfile.open(packed) as archive:
                archive.extractall(folder, filter="data")
        except (subprocess.SubprocessError, ValueError, OSError, tarfile.TarError) as error:
            reason = getattr(error, "stderr", None) or error
            raise FinerCAMError(f"npm cannot fetch onnxruntime-web ({one_line(reason)}); {_advice()}") from error
        cache.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(Path(folder) / "package" / "dist" / name, cache / name)


def _advice() -> str:
    return (
        f"where there is a network run `npm pack onnxruntime-web@{VERSION}` and unpack the file, then give "
        "--runtime package/dist"
    )
