"""The attribution that travels with an asset and with everything computed from it."""

from pathlib import Path

from keras_mdm.assets import kept
from keras_mdm.assets.table import Asset


def attribution_text(record: Asset, *, changes: str = "none") -> str:
    """Return the text of an `ATTRIBUTION.md`.

    Args:
        record: the asset.
        changes: what was done to the files beside this text, "none" for the files as published.
            Both Creative Commons licences in the table require that changes be stated.

    Returns:
        Markdown.
    """
    origin = ", or ".join(f"{source.package} {source.version}" for source in record.sources)
    return (
        f"# {record.name}: {record.what}\n\n"
        f"- Author: {record.author}\n"
        f"- Licence: {record.licence}\n"
        f"- Changes: {changes}\n"
        f"- Taken from the package: {origin}\n\n"
        "Show this line wherever the files, or pictures made from them, are published:\n\n"
        f"> {record.attribution}\n"
    )


def write_attribution(directory: Path, record: Asset, *, changes: str) -> None:
    """Write `ATTRIBUTION.md` beside files in `directory` that were computed from an asset."""
    kept.write(directory / "ATTRIBUTION.md", attribution_text(record, changes=changes))
