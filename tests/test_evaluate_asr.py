"""Recognisers side by side: the same rows for all, figures that can be checked, records that stay."""

import io
import json
import math
import re
import sys
from pathlib import Path

import datasets
import jiwer
import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    GenerationConfig,
    HubertForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from hf_ssl_speech import SSLHubertForCTC, SSLWav2Vec2ForCTC, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.data.pieces import cut_at_pauses
from hf_ssl_speech.evaluation import recognizers
from hf_ssl_speech.evaluation.comparison import (
    ModelScores,
    choose_rows,
    differences,
    load_evaluation_set,
    read_scores,
    save_scores,
)
from hf_ssl_speech.evaluation.recognizers import MULTILINGUAL_TOKENS, is_seq2seq, load_ctc, load_seq2seq
from hf_ssl_speech.evaluation.report import draw_scores, worst_utterances
from hf_ssl_speech.recognition.metrics import count_edits
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import make_processor
from hf_ssl_speech.records import Score, complete

TEXTS = ["Abba, a bad cab!", "a dab", "bad dad", "", None, "cab", "a a a b", "dada"]
WINDOW_SECONDS = 1


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def tones(index: int) -> np.ndarray:
    """Tones of a fifth of a second, from half a second to two, for row `index`."""
    generator = np.random.default_rng(index)
    times = np.arange(3_200) / 16_000
    pitches = generator.uniform(100, 4_000, 3 + index)
    return np.concatenate([np.sin(2 * np.pi * pitch * times) * generator.uniform(0.05, 0.5) for pitch in pitches])


def encode(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="FLAC")
    return file.getvalue()


@pytest.fixture
def speech_file(tmp_path) -> str:
    """Eight rows: two without text, and a ninth with text but broken audio."""
    audio = [{"bytes": encode(tones(index)), "path": None} for index in range(len(TEXTS))]
    columns = {
        "id": [f"row-{index}" for index in range(len(TEXTS) + 1)],
        "audio": [*audio, {"bytes": b"no audio", "path": None}],
        "transcript": [*TEXTS, "a cab"],
        "speaker": [index % 2 for index in range(len(TEXTS) + 1)],
    }
    Dataset.from_dict(columns).to_parquet(tmp_path / "speech.parquet")
    return str(tmp_path / "speech.parquet")


@pytest.fixture
def evaluation_set(speech_file):
    normalization = TextNormalization()
    return load_evaluation_set(
        [speech_file], normalization, split="train", text_column="transcript", by=["speaker"], audio_column="audio"
    )


@pytest.fixture
def whisper(tmp_path, randomize) -> str:
    """Whisper with windows of a second and random weights, that writes letters from a to j."""
    specials = ["<|endoftext|>", "<|startoftranscript|>"]
    tokens = [*"abcdefghij", "Ġ", *specials]
    tokenizer = WhisperTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    end, start = tokenizer.convert_tokens_to_ids(specials)
    config = WhisperConfig(
        vocab_size=len(tokens), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_source_positions=50 * WINDOW_SECONDS, max_target_positions=24, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, decoder_start_token_id=start, begin_suppress_tokens=None,
    )  # fmt: skip
    randomize(WhisperForConditionalGeneration(config)).save_pretrained(tmp_path / "whisper")
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=WINDOW_SECONDS)
    WhisperProcessor(extractor, tokenizer).save_pretrained(tmp_path / "whisper")
    return str(tmp_path / "whisper")


@pytest.fixture
def make_ctc(tmp_path, make_tiny):
    """`make_ctc(model_class, name)` saves a CTC model with random weights and its processor, and gives the folder."""

    def make(model_class, name: str) -> str:
        processor = make_processor(["abcd abcd"])
        fields = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
        make_tiny(model_class, **fields).save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def evaluate_asr(monkeypatch):
    """The `main` of `examples/evaluate_asr.py`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import evaluate_asr

    monkeypatch.setattr(sys, "argv", ["evaluate_asr.py"])
    return evaluate_asr.main


def test_our_model_a_stock_one_and_whisper_are_scored_on_the_same_rows(
    evaluate_asr, speech_file, evaluation_set, whisper, make_ctc, tmp_path, caplog
):
    models = [make_ctc(SSLWav2Vec2ForCTC, "ours"), make_ctc(HubertForCTC, "stock"), whisper]
    arguments = ["--models", *models, "--data", speech_file, "--split", "train", "--text_column", "transcript"]
    arguments += ["--by", "speaker", "--output_dir", str(tmp_path / "scores"), "--bootstrap", "200"]
    with caplog.at_level("INFO"):
        evaluate_asr(arguments)
        evaluate_asr(arguments)  # the scores are replaced, not doubled

    entries = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert [entry["model"] for entry in entries] == models
    recognizers = [load_ctc(models[0]), load_ctc(models[1]), load_seq2seq(models[2])]
    for model, entry, recognizer in zip(models, entries, recognizers):
        texts = [evaluation_set.normalization(text) for text in recognizer.texts(evaluation_set.rows)]
        assert entry["wer"]["value"] == pytest.approx(jiwer.wer(evaluation_set.references, texts))
        assert entry["cer"]["value"] == pytest.approx(jiwer.cer(evaluation_set.references, texts))
        assert entry["wer"]["low"] <= entry["wer"]["value"] <= entry["wer"]["high"]
        assert set(entry["groups"]["speaker"]) == {"0", "1"}
        assert entry["data"] == entries[0]["data"]
        assert entry["data"]["rows"] == 6
        assert entry["data"]["hours"] * 3600 == pytest.approx(0.2 * sum(3 + row for row in (0, 1, 2, 5, 6, 7)))
        assert entry["decoder"]["kind"] == "greedy"
        assert entry["real_time_factor"] > 0
        assert entry["parameters"] == recognizer.model.num_parameters()
        (own,) = read_scores(model)
        assert own == complete(Score, entry | {"model": None})

    report = (tmp_path / "scores" / "report.md").read_text()
    assert "3 of 9 rows skipped" in caplog.text
    assert report.partition("\n![")[0].strip() in caplog.text
    assert "2 without text" in report
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:5]] == ["ours", "stock", "whisper"]
    assert [row[2].split()[0] for row in rows[2:5]] == [f"{100 * entry['wer']['value']:.1f}" for entry in entries]
    assert np.asarray(Image.open(tmp_path / "scores" / "scores.png").convert("L")).std() > 20


def test_rows_without_text_or_audio_are_named_with_the_reason(evaluation_set):
    skipped = evaluation_set.facts["skipped"]["skipped"]
    assert skipped["without text"] == ["row-3", "row-4"]
    assert [names for reason, names in skipped.items() if "unreadable" in reason] == [["row-8"]]
    assert evaluation_set.references == ["abba a bad cab", "a dab", "bad dad", "cab", "a a a b", "dada"]
    assert evaluation_set.groups == {"speaker": ["0", "1", "0", "1", "0", "1"]}


def test_text_of_which_normalisation_leaves_nothing_is_a_reason_of_its_own(speech_file):
    class OnlyRowOne(TextNormalization):
        def __call__(self, text):
            return text if text == "row-1" else ""

    kept = load_evaluation_set([speech_file], OnlyRowOne(), split="train", text_column="id")
    assert kept.references == ["row-1"]
    emptied = kept.facts["skipped"]["skipped"]["with nothing left of its text once normalised"]
    assert {"row-0", "row-2"} <= set(emptied)


def test_a_few_rows_are_chosen_from_the_whole_data_and_always_the_same():
    rows = Dataset.from_dict({"place": list(range(100))})
    chosen = choose_rows(rows, 10)["place"]
    assert chosen == choose_rows(rows, 10)["place"] == sorted(chosen)
    assert len(set(chosen)) == 10 and min(chosen) < 30 and max(chosen) > 70
    assert choose_rows(rows, 1000)["place"] == choose_rows(rows, None)["place"] == rows["place"]


def test_a_first_look_is_no_score_of_the_model(evaluate_asr, speech_file, make_ctc, tmp_path):
    ours = make_ctc(SSLHubertForCTC, "ours")
    settings = ["--data", speech_file, "--split", "train", "--text_column", "transcript", "--device", "cpu"]
    evaluate_asr(["--models", ours, *settings, "--output_dir", str(tmp_path / "look"), "--limit", "5"])
    assert len(read_scores(tmp_path / "look")) == 1 and read_scores(ours) == []


def test_whisper_writes_a_row_whatever_its_company(whisper, evaluation_set):
    recognizer = load_seq2seq(whisper, batch_seconds=3)
    together = recognizer.texts(evaluation_set.rows)
    alone = [recognizer.texts(evaluation_set.rows.select([place]))[0] for place in range(len(evaluation_set.rows))]
    assert together == alone
    assert len(set(together)) > 2  # else the order would not show


def test_whisper_writes_a_long_row_window_by_window(whisper, evaluation_set):
    recognizer = load_seq2seq(whisper)
    rows = evaluation_set.rows
    place = int(np.argmax(rows["num_samples"]))
    windows = list(cut_at_pauses([rows[place]["samples"]], WINDOW_SECONDS * 16_000))
    assert len(windows) > 1
    pieces = Dataset.from_dict({"num_samples": list(map(len, windows)), "samples": windows})
    pieces = pieces.with_format("numpy")
    assert recognizer.texts(rows.select([place])) == [" ".join(recognizer.texts(pieces))]


def test_multilingual_whisper_is_told_the_language(whisper, evaluation_set):
    settings = GenerationConfig.from_pretrained(whisper)
    settings._from_model_config = False
    settings.is_multilingual = True
    # Letters stand in for the tokens of languages and task.
    settings.lang_to_id = {"<|en|>": 0, "<|de|>": 1}
    settings.task_to_id = {"transcribe": 2}
    settings.no_timestamps_token_id = settings.decoder_start_token_id
    settings.save_pretrained(whisper)
    rows = evaluation_set.rows.select([0])
    recognizer = load_seq2seq(whisper, language="de")
    assert recognizer.decoder == {"kind": "greedy", "task": "transcribe", "language": "de"}
    assert recognizer.texts(rows) != [""]
    with pytest.raises(ValueError, match=r"<\|fr\|> is not supported"):
        load_seq2seq(whisper, language="fr").texts(rows)


def scores_of(name, predictions, references):
    return ModelScores(
        name=name,
        decoder={"kind": "greedy"},
        parameters=1,
        predictions=predictions,
        words=count_edits(predictions, references, "words"),
        characters=count_edits(predictions, references, "characters"),
        seconds=1.0,
        device="CPU",
    )


def test_the_difference_of_models_that_fail_together_is_surer_than_their_rates():
    generator = np.random.default_rng(0)
    references = ["a b c d"] * 200
    hard = generator.random(200) < 0.4
    first = [("x x x d" if each else text) for each, text in zip(hard, references)]
    second = [("x x x x" if each else text) for each, text in zip(hard, references)]
    models = [scores_of("first", first, references), scores_of("second", second, references)]
    draws = {"confidence": 0.95, "bootstrap": 500, "seed": 0}
    assert differences([models[0], models[0]], **draws) == [(0, 0, 0)] * 2
    none, (difference, low, high) = differences(models, **draws)
    assert none == (0, 0, 0)
    assert difference == pytest.approx(hard.mean() / 4)
    assert 0 < low < difference < high
    half_width = 1.96 * np.sqrt(hard.mean() * (1 - hard.mean()) / 200) / 4  # one word in four, where it is hard
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.15)


def test_the_worst_utterances_come_first_and_right_ones_never(evaluation_set):
    predictions = [*evaluation_set.references[:3], "cab cab cab", "", "dada"]
    shown = worst_utterances(scores_of("model", predictions, evaluation_set.references), evaluation_set)
    assert re.findall(r"(row-\d), errors: (\d), words: (\d)", shown) == [("row-6", "4", "4"), ("row-5", "2", "1")]


def test_scores_of_other_data_or_decoders_stay_when_one_is_replaced(tmp_path):
    entries = [
        {"data": {"rows": rows}, "normalization": {}, "decoder": {"kind": kind}, "wer": {"value": 1}}
        for rows in (1, 2)
        for kind in ("greedy", "beam")
    ]
    save_scores(entries, tmp_path)
    save_scores([entries[1] | {"wer": {"value": 2}}], tmp_path)
    expected = [(1, "greedy", 1), (2, "greedy", 1), (2, "beam", 1), (1, "beam", 2)]
    found = read_scores(tmp_path)
    assert [(each["data"]["rows"], each["decoder"]["kind"], each["wer"]["value"]) for each in found] == expected


def test_a_file_that_holds_no_scores_is_left_alone(tmp_path):
    (tmp_path / "scores.json").write_text("my notes")
    with pytest.raises(ValueError, match="does not hold scores"):
        save_scores([], tmp_path)
    assert (tmp_path / "scores.json").read_text() == "my notes"


def test_a_missing_model_is_told_before_any_is_scored(evaluate_asr, speech_file, make_ctc, tmp_path):
    models = [make_ctc(SSLWav2Vec2ForCTC, "ours"), str(tmp_path / "nowhere")]
    arguments = ["--models", *models, "--data", speech_file, "--split", "train", "--text_column", "transcript"]
    with pytest.raises(ValueError, match=r"No recogniser can be loaded from .*nowhere"):
        evaluate_asr([*arguments, "--output_dir", str(tmp_path / "scores")])
    assert read_scores(models[0]) == []


def test_a_beam_search_is_scored_as_another_decoder_beside_the_greedy_one(
    evaluate_asr, speech_file, make_ctc, tmp_path
):
    pytest.importorskip("flashlight", reason="beam search needs the extra [lm]")
    model = make_ctc(SSLWav2Vec2ForCTC, "ours")
    arguments = ["--models", model, "--data", speech_file, "--split", "train", "--text_column", "transcript"]
    for decoder in ("greedy", "beam"):
        evaluate_asr([*arguments, "--output_dir", str(tmp_path / "scores"), "--decoder", decoder])
    assert [entry["decoder"]["kind"] for entry in read_scores(model)] == ["greedy", "beam"]
    assert len(read_scores(tmp_path / "scores")) == 2


def test_a_language_model_without_a_beam_search_is_an_error(evaluate_asr, speech_file, tmp_path):
    arguments = [
        "--models",
        "any",
        "--data",
        speech_file,
        "--output_dir",
        str(tmp_path),
        "--language_model",
        "words.arpa",
    ]
    with pytest.raises(ValueError, match="takes no --language_model: give --decoder beam"):
        evaluate_asr(arguments)


def test_an_encoder_without_a_ctc_head_is_no_recogniser(tmp_path, make_tiny):
    make_tiny(SSLWav2Vec2ForPreTraining).save_pretrained(tmp_path / "encoder")
    make_processor(["abcd"]).save_pretrained(tmp_path / "encoder")
    assert not is_seq2seq(str(tmp_path / "encoder"))
    with pytest.raises(ValueError, match="CTC"):
        load_ctc(str(tmp_path / "encoder"))


def test_groups_beyond_twenty_are_left_out_of_the_picture_only(tmp_path):
    def summary(rate):
        return {"wer": rate, "low": rate / 2, "high": rate * 1.5, "reference_length": 10}

    groups = {"speaker": {f"speaker {number}": summary(0.01 * number) for number in range(25)} | {"x": summary(0.5)}}
    entry = {"model": "ours", "wer": summary(0.1) | {"value": 0.1}, "groups": groups}
    entry["data"] = {"source": "speech", "split": "test", "rows": 9}
    draw_scores([entry, entry | {"model": "theirs"}], tmp_path / "scores.png")
    picture = np.asarray(Image.open(tmp_path / "scores.png").convert("L"))
    assert picture.shape[0] > picture.shape[1] and picture.std() > 20


def old_multilingual_whisper(folder: Path, randomize) -> str:
    """A Whisper of as many outputs as multilingual ones have, whose generation config does not tell so."""
    tokens = ["a", "b", "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>"]
    tokens += ["<|notimestamps|>"]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = WhisperTokenizer(vocab=ids, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": tokens[2:]})
    config = WhisperConfig(
        vocab_size=MULTILINGUAL_TOKENS, num_mel_bins=8, d_model=4, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=1, decoder_attention_heads=1, encoder_ffn_dim=4, decoder_ffn_dim=4,
        max_source_positions=50 * WINDOW_SECONDS, max_target_positions=64, pad_token_id=2, bos_token_id=2,
        eos_token_id=2, decoder_start_token_id=3, begin_suppress_tokens=None,
    )  # fmt: skip
    randomize(WhisperForConditionalGeneration(config)).save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=WINDOW_SECONDS), tokenizer).save_pretrained(
        folder
    )
    return str(folder)


def test_whisper_is_told_the_language_though_its_generation_config_is_old(tmp_path, randomize, evaluation_set):
    folder = old_multilingual_whisper(tmp_path / "old", randomize)
    assert not hasattr(GenerationConfig.from_pretrained(folder), "is_multilingual")
    for language in ("de", "German"):
        recognizer = load_seq2seq(folder, language=language)
        heard = []
        recognizer.model.model.decoder.register_forward_pre_hook(
            lambda module, args, kwargs, heard=heard: heard.append(kwargs["input_ids"]), with_kwargs=True
        )
        recognizer.texts(evaluation_set.rows.select([0]))
        assert heard[0].tolist() == [[3, 5, 6, 8]], "start, German, transcribe, no timestamps"
    with pytest.raises(ValueError, match=r"does not know 'fr': <\|fr\|> is not supported. It knows en, de"):
        load_seq2seq(folder, language="fr")


def test_a_language_that_a_model_does_not_take_is_refused(whisper, make_ctc, evaluate_asr, speech_file, tmp_path):
    with pytest.raises(ValueError, match=r"The language 'de' was asked for, but .*whisper writes English only"):
        load_seq2seq(whisper, language="de")
    load_seq2seq(whisper, language="en")
    arguments = [
        "--data",
        speech_file,
        "--split",
        "train",
        "--output_dir",
        str(tmp_path / "scores"),
        "--language",
        "de",
    ]
    with pytest.raises(ValueError, match="has no adapters for languages, so none can be chosen"):
        evaluate_asr(["--models", make_ctc(HubertForCTC, "stock"), *arguments])
    arguments[-1] = "en"
    with pytest.raises(ValueError, match="has no adapters for languages, so none can be chosen"):
        evaluate_asr(["--models", whisper, make_ctc(HubertForCTC, "stock"), *arguments])
    assert not (tmp_path / "whisper" / "scores.json").exists(), "it is told before any model is scored"


def test_whisper_that_never_ends_a_text_is_stopped_and_named(tmp_path, randomize, evaluation_set, caplog, monkeypatch):
    monkeypatch.setattr(recognizers, "TOKENS_A_SECOND", 10)
    monkeypatch.setattr(recognizers, "MORE_TOKENS", 10)
    recognizer = load_seq2seq(old_multilingual_whisper(tmp_path / "old", randomize), language="de")
    head = torch.nn.Linear(4, MULTILINGUAL_TOKENS)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.fill_(-9.0)[0] = 9.0
    recognizer.model.proj_out = head
    rows = evaluation_set.rows.select([0, 1])
    texts = recognizer.texts(rows)
    windows = [[len(each) for each in cut_at_pauses([row["samples"]], WINDOW_SECONDS * 16_000)] for row in rows]
    most = [sum(10 + math.ceil(10 * length / 16_000) for length in row) for row in windows]
    assert [0 < text.count("a") <= each for text, each in zip(texts, most)] == [True, True]
    assert "was cut off after more tokens than anybody says" in caplog.text
    with torch.no_grad():
        head.bias[3] = float("nan")
    with pytest.raises(ValueError, match="logits hold NaN"):
        recognizer.texts(rows)


def test_number_words_become_digits_by_choice():
    said, shown = "Twenty-five men, one thousand two hundred birds", "25 men 1,200 birds"
    assert (
        TextNormalization(numbers="digits")(said) == TextNormalization(numbers="digits")(shown) == "25 men 1200 birds"
    )
    assert TextNormalization()(said) == "twenty five men one thousand two hundred birds"
    assert "numbers" not in TextNormalization().to_dict()
    with pytest.raises(ValueError, match="choose a case"):
        TextNormalization(numbers="digits", case="keep")


def test_a_whisper_of_another_rate_is_refused(whisper):
    processor = WhisperProcessor.from_pretrained(whisper)
    processor.feature_extractor.sampling_rate = 8_000
    processor.save_pretrained(whisper)
    with pytest.raises(ValueError, match="was trained at 8,000 Hz"):
        load_seq2seq(whisper)
