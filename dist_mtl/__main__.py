"""`python -m dist_mtl VERB`, the same as `dist-mtl VERB`."""

from __future__ import annotations

from dist_mtl.cli import main

if __name__ == "__main__":
    main()
