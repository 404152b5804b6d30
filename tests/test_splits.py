"""The validation part of a run: which split is taken, and whether training has seen it."""

import logging

import numpy as np
import pytest
import soundfile

from hf_ssl_speech.data.data_facts import SkipReport, split_facts, stream_facts
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.data.rows import most_unusable
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recipes.splits import Split, hold_out, load_split
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments, SpeechTrainingArguments


def write_audio(folder, seeds):
    folder.mkdir(parents=True)
    for seed in seeds:
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 40_000)
        soundfile.write(folder / f"{seed}.flac", noise, 16_000)


def load_both(tmp_path, train, validation, **settings):
    data_args = SpeechDataArguments([str(train)], [str(validation)], **settings)
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True)
    first = load_split("train", data_args, args)
    return load_split("validation", data_args, args, beside=first)


@pytest.mark.parametrize("cache", [False, True])
def test_validation_rows_that_are_training_rows_are_counted_and_warned_of(tmp_path, caplog, cache):
    write_audio(tmp_path / "a", [1, 2, 3])
    write_audio(tmp_path / "b", [3, 4])
    with caplog.at_level(logging.INFO):
        split = load_both(tmp_path, tmp_path / "a", tmp_path / "b", cache_audio=cache)
    assert split.facts["shared_with_training"] == 1
    assert "1 of 2 validation rows" in caplog.text


def test_rows_of_their_own_cause_no_warning(tmp_path, caplog):
    write_audio(tmp_path / "a", [1, 2])
    write_audio(tmp_path / "b", [3, 4])
    assert load_both(tmp_path, tmp_path / "a", tmp_path / "b").facts["shared_with_training"] == 0
    assert "training rows too" not in caplog.text


def test_validation_takes_the_validation_split_and_says_so(tmp_path, caplog):
    for split, seed in (("train", 1), ("test", 2), ("dev", 3)):
        write_audio(tmp_path / "all" / split, [seed])
    with caplog.at_level(logging.INFO):
        split = load_both(tmp_path, tmp_path / "all", tmp_path / "all")
    assert split.facts["shared_with_training"] == 0 and split.rows["name"][:] == ["3"]
    assert "the split 'dev'" in caplog.text


def test_neither_train_nor_test_is_taken_for_validation_unasked(tmp_path):
    for split, seed in (("train", 1), ("test", 2)):
        write_audio(tmp_path / "all" / split, [seed])
    with pytest.raises(ValueError, match="validation_split"):
        load_both(tmp_path, tmp_path / "all", tmp_path / "all")


def test_the_share_of_long_recordings_that_an_epoch_uses_is_told(tmp_path, caplog):
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a/talk.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 16_000)
    args = SpeechPreTrainingArguments(str(tmp_path / "run"), use_cpu=True, max_seconds=4)
    split = load_split("train", SpeechDataArguments([str(tmp_path / "a")]), args)
    assert split.facts["cropped"] == {"rows": 1, "share_used_each_epoch": 0.8}
    assert "an epoch uses 80.0%" in caplog.text


def test_the_facts_of_a_split_keep_paths_but_no_passwords(tmp_path):
    write_audio(tmp_path / "a", [1])
    rows, _ = prepare_speech(load_speech(str(tmp_path / "a")), min_seconds=1)
    sources = ["/data/speech", "https://me:pass-word@host/x.parquet", "hf://datasets/me/x?token=zyxwvu"]
    for source in (sources, " ".join(sources)):
        facts = split_facts(source, rows, SkipReport(1))
        assert "/data/speech" in str(facts) and "pass-word" not in str(facts) and "zyxwvu" not in str(facts)
    facts = stream_facts(sources)
    assert "/data/speech" in facts["fingerprint"] and "pass-word" not in str(facts) and "zyxwvu" not in str(facts)


@pytest.mark.parametrize("cache", [False, True])
def test_a_run_does_not_start_on_the_few_rows_that_are_left_and_is_told_why(tmp_path, cache):
    write_audio(tmp_path / "a", range(9))
    data_args = SpeechDataArguments([str(tmp_path / "a")], cache_audio=cache)
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True)
    for number in range(11):
        if number == 9:  # as many short rows as others are the wish of whoever set min_seconds
            assert len(load_split("train", data_args, args).rows) == 9
        soundfile.write(tmp_path / f"a/short{number}.flac", np.linspace(0, 0.5, 8_000), 16_000)
    with pytest.raises(ValueError) as caught:
        load_split("train", data_args, args)
    for words in ("55.0% of the train rows", "max_skipped_share=5.0%", "11 too short", "Lower min_seconds=2"):
        assert words in str(caught.value)
    data_args.max_skipped_share = 0.6
    assert len(load_split("train", data_args, args).rows) == 9


@pytest.mark.parametrize(
    ("total", "share", "most"),
    [(13, 0.05, 5), (4, 0.05, 2), (1, 0.05, 0), (24, 0.01, 1), (24, 0, 0), (300, 0.05, 15), (10, 0.6, 6)],
)
def test_a_small_folder_may_lose_what_a_hundred_rows_may_but_not_most_of_its_rows(total, share, most):
    assert int(most_unusable(total, share)) == most


def test_one_broken_file_of_thirteen_does_not_keep_a_folder_from_being_used(tmp_path):
    write_audio(tmp_path / "a", range(12))
    (tmp_path / "a" / "broken.flac").write_bytes(b"no audio")
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True)
    split = load_split("train", SpeechDataArguments([str(tmp_path / "a")]), args)
    assert len(split.rows) == 12 and split.facts["skipped"]["num_skipped"] == 1
    for broken in range(12):
        (tmp_path / "a" / f"{broken}.flac").write_bytes(b"no audio")
        if broken == 5:
            with pytest.raises(ValueError, match=r"53\.8% of the train rows"):
                load_split("train", SpeechDataArguments([str(tmp_path / "a")]), args)
            break


def test_transcripts_and_channels_reach_the_rows_of_a_run(tmp_path):
    write_audio(tmp_path / "a", [1])
    both = np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 2))
    soundfile.write(tmp_path / "a/2.flac", both, 16_000)
    (tmp_path / "a/metadata.csv").write_text("file_name,what_was_said\n1.flac,one\n2.flac,two\n")
    data_args = SpeechDataArguments([str(tmp_path / "a")], audio_channel=1)
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True)
    rows = load_split("train", data_args, args, need=["text"], text_column="what_was_said").rows
    assert rows["text"][:] == ["one", "two"]
    np.testing.assert_allclose(row_waveform(rows[1]), both[:, 0], atol=1e-4)


def held_out(tmp_path, share):
    data_args = SpeechDataArguments([str(tmp_path / "audio")], validation_share=share)
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True)
    train = load_split("train", data_args, args)
    return [split.rows and set(split.rows["name"]) for split in hold_out(train, Split(), data_args)]


def test_without_validation_data_a_share_of_the_recordings_is_held_out_by_name(tmp_path):
    write_audio(tmp_path / "audio", range(20))
    everything, nothing = held_out(tmp_path, 0.0)
    assert nothing is None
    train, validation = held_out(tmp_path, 0.2)
    assert len(validation) == 4 and train | validation == everything and not train & validation
    # More recordings leave the choice as it is, to those at the edge.
    write_audio(tmp_path / "audio" / "more", range(100, 102))
    assert len(held_out(tmp_path, 0.2)[1] & validation) >= 3
    for share, message in ((1.0, "from 0 to below 1"), (0.99, "leaves none for training")):
        with pytest.raises(ValueError, match=message):
            held_out(tmp_path, share)


def test_all_pieces_of_a_recording_are_held_out_together(tmp_path):
    (tmp_path / "audio").mkdir()
    for name in "abc":
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 100 * 16_000)
        soundfile.write(tmp_path / "audio" / f"{name}.flac", noise, 16_000)
    recordings = [{name[0] for name in part} for part in held_out(tmp_path, 0.3)]
    assert [len(each) for each in recordings] == [2, 1] and not recordings[0] & recordings[1]
