"""Sections as one HTML file, in the style of a run's report: nothing outside of itself is referred to, no script."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dist_mtl import __version__, report
from dist_mtl.report.blocks import Section

PAGE = """
{% macro table(one) %}
<div class="scroll" tabindex="0" role="group" aria-label="table"><table class="plain">
<thead><tr>
{% for column in one.columns %}
<th scope="col" class="{{ "" if column.numeric else "words" }}">{{ column.name }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in one.rows %}
<tr>{% for cell in row %}
{% set tag = "th scope=row" if loop.first else "td" %}
<{{ tag }} class="{{ "" if one.columns[loop.index0].numeric else "words" }} {{ cell.tone }}">
<span>{{ cell.text }}</span>{% if cell.note %}<small>{{ cell.note }}</small>{% endif %}
</{{ tag.split()[0] }}>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro figure(one) %}
<figure class="card">
<figcaption><h4>{{ one.title }}</h4></figcaption>
{{ one.svg }}
<ul class="keys">{% for key in one.keys %}
<li><svg class="swatch" viewBox="0 0 16 10" aria-hidden="true"><path class="rule" d="M1 5H15"/></svg>{{ key.name }}</li>
{% endfor %}</ul>
</figure>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
{% include "style.css" %}
</style>
</head>
<body>
<header>
<p class="kind">Study</p>
<h1>{{ title }}</h1>
<p class="story">{{ story }}</p>
</header>
<nav aria-label="sections"><ul>
{% for section in sections %}
<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
<p class="lede">{{ section.lede }}</p>
{% for one in section.blocks %}
{% if one.kind == "table" %}
{{ table(one) }}
{% elif one.kind == "figures" %}
<div class="grid">{% for each in one.figures %}{{ figure(each) }}{% endfor %}</div>
{% elif one.kind == "code" %}
<details><summary>{{ one.summary }}</summary>
<pre>{% for line in one.lines %}{{ line }}
{% endfor %}</pre></details>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main>
<footer>dist_mtl {{ version }}</footer>
</body>
</html>
"""


def render(title: str, story: str, parts: Sequence[Section]) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(report.__file__).parent),  # style.css
        autoescape=True,  # names and messages come from files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.from_string(PAGE).render(title=title, story=story, sections=parts, version=__version__)
    return page.strip() + "\n"
