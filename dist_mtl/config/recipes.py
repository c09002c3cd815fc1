"""The recipes that come with the package: the files of configs/, installed or in a checkout."""

from pathlib import Path

# configs/ of a checkout; a wheel has the same files here (pyproject.toml).
RECIPES = Path(__file__).parents[1] / "recipes"


def names() -> list[str]:
    """Of the recipes of training runs; studies and scale files are none."""
    files = (path.stem for path in RECIPES.glob("*.toml"))
    return sorted(name for name in files if not name.startswith(("study_", "scale")))


def resolved(path: str | Path) -> Path:
    """`path` if there is such a file, else the recipe that it names: `quickstart`, `configs/quickstart.toml`."""
    path = Path(path)
    may_be_recipe = path.suffix in ("", ".toml") and path.parent.as_posix() in (".", "configs")
    if not may_be_recipe or (path.exists() and not path.is_dir()):
        return path
    recipe = RECIPES / f"{path.stem}.toml"
    return recipe if recipe.exists() else path
