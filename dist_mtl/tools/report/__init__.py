"""events.jsonl -> one HTML file that needs nothing else: no script, no network, no torch.

The way of the data: `records` (a line, typed) -> `history` (the run over its restarts) -> `series` (few enough points)
-> `charts`, `curves` (SVG) -> `headline`, `quality`, `training`, `system` (sections) -> `page` (the file).
"""
