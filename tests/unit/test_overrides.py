"""`--set` takes keys as TOML writes them, quotes included, and names the key that is wrong."""

import pytest

from dist_mtl.config.file import parse
from dist_mtl.errors import ConfigError
from tests.support import samples


def tree(name: str) -> dict:
    """With a feature of this name."""
    tree = samples.tree("x")
    tree["features"][name] = {"kind": "dense"}
    return tree


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("my table", '"my table"'),
        ("my table", "'my table'"),
        ("my table", "my table"),  # without quotes where none are needed
        ("my table", ' "my table" '),
        ("größe", '"größe"'),
        ("größe", "größe"),
        ("größe", r'"gr\u00f6\u00dfe"'),
        ("a=b", '"a=b"'),
        ("a=b", "'a=b'"),
        ("it's", '"it\'s"'),
    ],
)
def test_keys_in_quotes(name: str, written: str) -> None:
    assert parse(tree(name), [f"features.{written}.mean=8"]).features[name].mean == 8
    assert parse(tree(name), {f"features.{written}.mean": 8}).features[name].mean == 8
    assert parse(tree(name), [f"\"features\".{written}.'mean' = 8"]).features[name].mean == 8


def test_a_dot_within_quotes_parts_nothing() -> None:
    metrics = parse(
        samples.tree("x"), ["data.validation='v'", 'select.metrics."ctr.auc"=1.0', "train.evaluate_every=5"]
    )
    assert metrics.select.metrics == {"ctr.auc": 1.0}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('tables."my table.dim=8', "quote of the key is not closed"),
        ("tables.'my table.dim=8", "quote of the key is not closed"),
        ('tables."my"x.dim=8', "quote of the key is not closed, or not where a part of it begins and ends"),
        (r'tables."\q".dim=8', "tables"),
        ('tables."".dim=8', "a key is written as section.key"),
        ("tables..dim=8", "a key is written as section.key"),
        ("=8", "a key is written as section.key"),
        ("tables.user", "write it as --set=section.key=value"),
        ('"tables"."user"', "write it as --set=section.key=value"),
        ('features."my table".means=8', 'features."my table".means is not a key; did you mean `mean`?'),
        ('features."a.b".mean=true', 'features."a.b".mean: '),
        ('"train".epochs."x"=8', "`epochs` is a value"),
    ],
)
def test_a_wrong_key_is_named(override: str, words: str) -> None:
    name = "a.b" if "a.b" in override else "my table"
    base = tree(name)
    base["train"]["epochs"] = 1
    with pytest.raises(ConfigError) as caught:
        parse(base, [override])
    assert words in str(caught.value), caught.value


def test_a_long_key_takes_no_time_that_grows_with_its_square() -> None:
    """Before, these took minutes."""
    with pytest.raises(ConfigError):
        parse(samples.tree("x"), ["a" + " " * 200_000 + "b=1"])
