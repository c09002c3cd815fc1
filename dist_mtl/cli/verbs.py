"""The `main` of each verb, imported once it is asked for: most of them import packages that take a second."""

from collections.abc import Callable


def main_of(verb: str) -> Callable[[], int | None]:
    """The function that runs a verb of `dist_mtl.cli.VERBS`."""
    match verb:
        case "train":
            from dist_mtl.cli import train as module
        case "evaluate":
            from dist_mtl.cli import evaluate as module
        case "predict":
            from dist_mtl.cli import predict as module
        case "compare":
            from dist_mtl.cli import compare as module
        case "recalibrate":
            from dist_mtl.cli import recalibrate as module
        case "relatedness":
            from dist_mtl.cli import relatedness as module
        case "convert":
            from dist_mtl.cli import convert as module
        case "describe":
            from dist_mtl.cli import describe as module
        case "synthesize":
            from dist_mtl.cli import synthesize as module
        case "plan":
            from dist_mtl.cli import plan as module
        case "report":
            from dist_mtl.cli import report as module
        case "study":
            from dist_mtl.cli import study as module
        case "new":
            from dist_mtl.cli import new as module
        case "verify":
            from dist_mtl.cli import verify as module
        case _:
            raise AssertionError(verb)
    return module.main
