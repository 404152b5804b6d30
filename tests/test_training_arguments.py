"""What becomes of each setting of transformers' TrainingArguments."""

import dataclasses
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_ssl_speech import SpeechCTCTrainingArguments, SpeechPreTrainingArguments
from hf_ssl_speech.training.trainer_settings import DECIDED, REFUSED, WORKS, default_of, settings_table

PAGE = Path(__file__).parents[1] / "docs" / "training_arguments.md"
FIELDS = {field.name: default_of(field) for field in dataclasses.fields(TrainingArguments)}


def test_it_is_said_of_every_setting_of_transformers_what_becomes_of_it_once():
    named = [*WORKS, *DECIDED, *REFUSED]
    assert len(named) == len(set(named))
    assert set(FIELDS) - set(named) == set(), "new settings: decide, and add them to training/trainer_settings.py"
    assert set(named) - set(FIELDS) == set(), "settings that transformers no longer has"


def test_the_page_shows_the_table():
    assert PAGE.read_text().endswith(f"\n\n{settings_table()}\n")


@pytest.mark.parametrize("kind", [SpeechPreTrainingArguments, SpeechCTCTrainingArguments])
def test_a_setting_that_would_not_do_what_it_says_is_refused_by_name(kind, tmp_path):
    kind(output_dir=tmp_path, use_cpu=True)
    for name in REFUSED:
        default = FIELDS[name]
        other = not default if isinstance(default, bool) else default + 1 if isinstance(default, int) else "another"
        if name == "remove_unused_columns":
            other = True  # the default here is False
        if isinstance(default, float):
            other = 0.1
        with pytest.raises(ValueError, match=rf"do not go with this package: {name}="):
            kind(output_dir=tmp_path, use_cpu=True, **{name: other})


def test_settings_of_accelerates_data_loaders_and_evaluations_that_never_come_are_refused(tmp_path):
    for given in ({"split_batches": True}, '{"split_batches": true}'):
        with pytest.raises(ValueError, match=r"accelerator_config\.split_batches=True"):
            SpeechPreTrainingArguments(output_dir=tmp_path, accelerator_config=given)
    with pytest.raises(ValueError, match="do_eval=True without an eval_strategy"):
        SpeechPreTrainingArguments(output_dir=tmp_path, do_eval=True)
