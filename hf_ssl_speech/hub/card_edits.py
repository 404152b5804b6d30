"""Cards that people wrote or edited: how they are told from ours, and how their metadata meets that of a new card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

# What of a card's metadata only people know.
STATED = ("license", "language", "datasets")
# Cards with one of these were written by a program, and are made anew.
GENERATED = (
    "Made by hf_ssl_speech from run.json",
    "generated automatically according to the information the Trainer",
    "This model card has been automatically generated",
)
# The line that marks a card of ours, with the digest of all below the metadata but for this line.
MARK = re.compile(r"<!-- Made by hf_ssl_speech from run\.json.*?-->")
DIGEST = re.compile(r"\(text ([0-9a-f]{16})\)")


def read_card(text: str, where: str) -> ModelCard:
    """A card that somebody wrote, here or on the Hub.

    Raises:
        ValueError: If its metadata is no YAML.
    """
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata on top of {where} can't be read: {' '.join(str(error).split())}.") from error
    # Python reads YAML 1.1, to which Norwegian, `no`, is false; the Hub reads 1.2.
    language = card.data.get("language")
    if language is False:
        card.data["language"] = "no"
    elif isinstance(language, list):
        card.data["language"] = ["no" if code is False else code for code in language]
    return card


def digest(text: str) -> str:
    """Of a card's text below its metadata, but for the line that marks it and white space around lines."""
    lines = (line.strip() for line in MARK.sub("", text).splitlines())
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()[:16]


def is_hand_written(card: str) -> bool:
    """Whether somebody wrote the card, or took it over by removing the line that says how it was made."""
    return not any(mark in card for mark in GENERATED)


def is_untouched(card: str) -> bool:
    """Whether the text below the metadata is as a program made it, and nobody edited it since."""
    mark = MARK.search(card)
    if not mark:
        return not is_hand_written(card)
    made = DIGEST.search(mark[0])
    return made is not None and made[1] == digest(ModelCard(card, ignore_metadata_errors=True).text)


def merge_metadata(made: ModelCardData, there: Mapping[str, Any]) -> ModelCardData:
    """The metadata of a new card, with what the Hub's own says beyond it: other fields, and other tags.

    Figures and the model that it started from are those of the new card alone.
    """
    fields = made.to_dict()
    stale = {"model-index", "base_model"}
    merged = {name: value for name, value in there.items() if name not in stale} | fields
    merged["tags"] = list(dict.fromkeys([*fields.get("tags", []), *there.get("tags", [])])) or None
    return ModelCardData(**merged)


def merge_own(
    own: ModelCardData, made: ModelCardData, there: Mapping[str, Any], asked: Collection[str]
) -> ModelCardData:
    """The metadata of a card in somebody's own words, with what people said on the Hub beyond it.

    Args:
        own: The card's.
        made: That of a card of ours, which tells what no person has said.
        there: That of the card on the Hub.
        asked: Fields that this push was given.
    """
    fields = made.to_dict()
    said = {name: value for name, value in there.items() if name not in fields}
    said |= {name: fields[name] for name in STATED if name in fields}
    said["tags"] = [tag for tag in there.get("tags", []) if tag not in fields["tags"]]
    for name in set(asked).intersection(fields):
        own[name] = fields[name]
    return merge_metadata(own, said)
