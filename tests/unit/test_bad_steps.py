"""RUN/bad_steps.jsonl: a step stands there once, however its line is written; nothing else is removed."""

import json

from dist_mtl.training.nonfinite import of_others


def test_only_the_lines_of_the_step_go() -> None:
    other = [json.dumps({"step": 12, "losses": {}}), '{"step": 1, "cut', "a note of step 1", "[1]", "\\xff"]
    same = [json.dumps({"step": 1, "ranks": []}), '{"losses":{},"step":1}', ' {"step" : 1}']
    lines = "\n".join([*same[:2], *other, same[2]]).encode() + b"\xff"  # and a last line that is no text
    kept = of_others(lines, 1)
    assert kept == [*(line.encode() for line in other), same[2].encode() + b"\xff"]
    assert of_others("\n".join(same).encode(), 1) == []
