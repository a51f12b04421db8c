"""Golden cases: tiny networks of the authors' code with inputs and results, and their checks.

A case is `<name>.json` beside `<name>.npz`. Stored pictures are channels first, a clip is one
picture with its frames in a square grid, and level 0 is the highest resolution.
"""
