"""Write a starter configuration into a folder: dist-mtl new DIR [--recipe quickstart]."""

from pathlib import Path

from dist_mtl.cli.arguments import Parser
from dist_mtl.config.recipes import RECIPES, names
from dist_mtl.errors import ConfigError, nearest


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("dir", help="folder to write into; made if need be")
    parser.add_argument("--recipe", default="quickstart", help=f"one of {', '.join(names())} (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.recipe not in names():
        raise ConfigError(f"--recipe {arguments.recipe}: no such recipe; {nearest(arguments.recipe, names())}")
    path = Path(arguments.dir, f"{arguments.recipe}.toml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write((RECIPES / path.name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose a folder that does not have it yet") from None
    print(f"configuration in {path}; train it with: dist-mtl train {path}")
