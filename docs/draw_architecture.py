"""Draws docs/images/architecture.svg: the rooms of the package and who imports whom.

`python docs/draw_architecture.py`; the table is that of `tests/test_layering.py`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "images" / "architecture.svg"

WIDTH, ROW, BOX, MARGIN = 900, 78, (104, 34), 20
INK, PAPER, ROOM, PURE = "#333", "#fff", "#e8eef7", "#fdf0d5"
KNOWS_NO_TENSORFLOW = ("diffusion", "layers")


def rooms(table):
    """{room: rooms below it that it imports}, folders only."""
    folders = [name for name in table if (ROOT / "keras_mdm" / name).is_dir()]
    found = {}
    for number, name in enumerate(folders):
        imported = {module.split(".")[0] for module in table[name]}
        # What stands above in the table is imported by one function, when it is called.
        found[name] = [other for other in folders[:number] if other in imported]
    return found


def rows_of(imports):
    """{room: row}, the lowest row first; a room stands above all that it imports."""
    rows = {}
    for name, below in imports.items():
        rows[name] = 1 + max((rows[other] for other in below), default=-1)
    return rows


def reached(imports, name):
    """All that a room imports, by way of others too."""
    return {name}.union(*(reached(imports, other) for other in imports[name]))


def direct(imports):
    """(room, imported room), but for what a longer way says already."""
    return [
        (name, other)
        for name, below in imports.items()
        for other in below
        if not any(other in reached(imports, third) for third in below if third != other)
    ]


def places(imports, rows):
    """{room: centre of its box}; a room stands below those that import it, where it can."""
    height, found = max(rows.values()), {}
    arrows = direct(imports)

    def wanted(name):
        above = [found[user][0] for user, other in arrows if other == name]
        return sum(above) / len(above) if above else WIDTH / 2

    for row in range(height, -1, -1):
        members = sorted((name for name in rows if rows[name] == row), key=wanted)
        step = (WIDTH - 2 * MARGIN) / len(members)
        for number, name in enumerate(members):
            y = MARGIN + BOX[1] / 2 + (height - row) * ROW
            found[name] = (MARGIN + (number + 0.5) * step, y)
    return found


def arrow(start, end, dashed):
    """From a room to one below it; dashed where only one module of it is imported."""
    (x0, y0), (x1, y1) = start, end
    y0, y1 = y0 + BOX[1] / 2, y1 - BOX[1] / 2 - 2
    middle = (y0 + y1) / 2
    way = f"M{x0:.0f} {y0:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<path d="{way}" fill="none" stroke="#99a"{dashes} marker-end="url(#tip)"/>'


def box(name, centre):
    x, y = centre[0] - BOX[0] / 2, centre[1] - BOX[1] / 2
    fill = PURE if name in KNOWS_NO_TENSORFLOW else ROOM
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="6" fill="{fill}" '
        f'stroke="{INK}"/><text x="{centre[0]:.0f}" y="{centre[1] + 5:.0f}">{name}</text>'
    )


def draw(table):
    """The picture as text."""
    imports = rooms(table)
    rows = rows_of(imports)
    centres = places(imports, rows)
    height = 2 * MARGIN + BOX[1] + max(rows.values()) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="DejaVu Sans, sans-serif" font-size="14" text-anchor="middle">',
        '<marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0L6 3L0 6z" fill="#99a"/></marker>',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        *(arrow(centres[a], centres[b], b not in table[a]) for a, b in direct(imports)),
        *(box(name, centre) for name, centre in centres.items()),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    from test_layering import ALLOWED

    FILE.write_text(draw(ALLOWED))
