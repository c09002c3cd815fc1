"""The recipes that come with the package: the files of configs/, installed or in a checkout."""

from pathlib import Path

# configs/ of a checkout; a wheel has the same files here (pyproject.toml).
RECIPES = Path(__file__).parents[1] / "recipes"


def names() -> list[str]:
    """Of the recipes of training runs; studies and scale files are none."""
    files = (path.stem for path in RECIPES.glob("*.toml"))
    return sorted(name for name in files if not name.startswith(("study_", "scale")))


def resolved(path: str | Path) -> Path:
    """`path` if that file exists, else the recipe that it names: `quickstart`, `configs/quickstart.toml`."""
    path = Path(path)
    if path.exists() or path.suffix not in ("", ".toml") or path.parent.as_posix() not in (".", "configs"):
        return path
    recipe = RECIPES / f"{path.stem}.toml"
    return recipe if recipe.exists() else path
