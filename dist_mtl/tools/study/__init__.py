"""Backbones x methods x seeds in one go, and whether a method is better than none: paired, with intervals.

The way of a study: `plan` (the study file -> cells, each an ordinary training run) -> `jobs` (processes side by side)
-> `run` (tune on held-out training rows, then train every seed and touch the test set once) -> `results` (what the
cells found, by `paired` statistics) -> `table` (Markdown) and `page` (HTML). Nothing here knows what a method is.
"""
