"""The cited figures of the explorer: each is positive and has a source with title, year and address."""

import importlib.resources
import json
from urllib.parse import urlparse

FACTS = json.loads(importlib.resources.files("hf_ssl_speech.explorer").joinpath("web/languages.json").read_text())
HOURS = ("transcribed_hours", "untranscribed_hours")
FIGURES = [each[kind] for each in FACTS["languages"] for kind in HOURS]
FIGURES += [figure for result in FACTS["results"] for figure in result["figures"]]


def test_every_figure_is_positive_and_tells_what_of_and_from_where():
    for figure in FIGURES:
        assert figure["value"] > 0 and figure["unit"] and figure["of"], figure
        assert figure["source"] in FACTS["sources"], figure


def test_every_source_has_a_title_a_year_and_an_address_and_is_cited():
    for source in FACTS["sources"].values():
        assert source["title"] and isinstance(source["year"], int) and source["year"] > 2000
        assert urlparse(source["url"]).scheme == "https" and urlparse(source["url"]).netloc
    assert {figure["source"] for figure in FIGURES} == set(FACTS["sources"])


def test_languages_differ_and_both_ways_have_results():
    codes = [each["code"] for each in FACTS["languages"]]
    assert len(codes) == len(set(codes)) >= 10
    assert {result["way"] for result in FACTS["results"]} == {"self-supervised", "supervised", "both"}
    assert all(result["claim"].endswith(".") and result["figures"] for result in FACTS["results"])
