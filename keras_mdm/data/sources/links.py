"""Links to folders: followed, but never in a circle."""

import os


class Links:
    """Links to folders that were followed.

    Args:
        root: the folder that is walked through.
    """

    def __init__(self, root: str):
        self._root = os.path.realpath(root)
        self._targets: set[str] = set()

    def problem(self, path: str) -> str | None:
        """Why a folder must not be entered, if it is a link that leads in a circle, or if its files
        are read elsewhere."""
        if not os.path.islink(path):
            # A link to a sub-folder may come before one to its parent.
            if self._targets and os.path.realpath(path) in self._targets:
                return "is a folder that a link leads to, and is read there"
            return None
        target = os.path.realpath(path)
        inside = os.path.relpath(target, self._root)
        if inside == os.curdir or self._root.startswith(os.path.join(target, "")):
            return "is a link to a folder that contains it"
        if not inside.startswith(os.pardir):
            # The files there are found without the link, unless they are hidden.
            if not any(part.startswith(".") for part in inside.split(os.sep)):
                return "is a link to another folder of the same source"
        if any(target == known or target.startswith(known + os.sep) for known in self._targets):
            return "is a link to a folder that another link leads to"
        self._targets.add(target)
        return None


def leads_nowhere(path: str) -> bool:
    """Whether a path is a link whose target is missing, or that leads in a circle."""
    return os.path.islink(path) and not os.path.exists(path)
