"""Wheels made on the spot, and records that pin them."""

import hashlib
import zipfile
from pathlib import Path

from keras_mdm.assets.table import Asset, Source


def make_wheel(directory: Path, package: str, files: dict[str, bytes]) -> Path:
    """Write a valid wheel of version 1.0 with `files` under its module's folder."""
    module = package.replace("-", "_")
    wheel = directory / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    members = {f"{module}/art/{name}": content for name, content in files.items()}
    members[f"{module}/__init__.py"] = b""
    members[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode()
    members[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in members).encode()
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return wheel


def source_of(wheel: Path, package: str, sha256: str | None = None) -> Source:
    return Source(
        package=package,
        version="1.0",
        filename=wheel.name,
        sha256=sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest(),
        size=wheel.stat().st_size,
        members=(f"{package.replace('-', '_')}/art/*.svg",),
    )


def record_of(*sources: Source, contents: dict[str, str] | None = None) -> Asset:
    return Asset(
        name="drawings",
        what="two drawings made for a test",
        licence="CC BY 4.0",
        author="nobody",
        attribution="Drawings: nobody, CC BY 4.0.",
        sources=sources,
        contents=contents or {},
    )
