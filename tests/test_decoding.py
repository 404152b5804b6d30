"""Frames become text and times: greedily and by beam search, with language models of words and of characters."""

import json
import logging
import re
import sys
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import (
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2PhonemeCTCTokenizer,
    Wav2Vec2Processor,
    WhisperConfig,
)

from hf_ssl_speech import (
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SSLHubertForCTC,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForPreTraining,
    TextNormalization,
    add_labels,
    load_speech,
    prepare_speech,
)
from hf_ssl_speech.evaluation.recognizers import CTCRecognizer
from hf_ssl_speech.recognition.alignment import align_text
from hf_ssl_speech.recognition.decoding import BeamDecoder, BeamSettings, GreedyDecoder, align_tokens
from hf_ssl_speech.recognition.language_model import as_characters, read_words, write_ngram
from hf_ssl_speech.recognition.text import fitting_normalization
from hf_ssl_speech.recognition.transcript import Alphabet
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
SENTENCES = ["the cat sat on the mat", "a dog sat on the cat", "the dog ran", "a cat ran to the dog"] * 5


@pytest.fixture
def tokenizer(tmp_path):
    return make_tokenizer(tmp_path, ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])


@pytest.fixture
def processor(tokenizer):
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=True), tokenizer)


@pytest.fixture
def config(tokenizer):
    return SSLWav2Vec2Config.preset("tiny", vocab_size=len(tokenizer))


def spoken(tokenizer, text: str, frames_each: int = 2, sure: float = 6.0) -> torch.Tensor:
    """Logits `(frames, vocabulary)` of a model that hears this text: so many frames a character, a blank after each."""
    ids = tokenizer(text).input_ids
    path = [index for one in ids for index in [one] * frames_each + [tokenizer.pad_token_id]]
    return sure * torch.nn.functional.one_hot(torch.tensor(path), len(tokenizer)).float()


def decode_one(decoder, logits):
    return decoder.decode(logits[None], torch.tensor([len(logits)]))[0]


def doubtful(tokenizer, text: str, alternatives: dict[str, str]) -> torch.Tensor:
    """As `spoken`, but wherever a key is heard its value is a little likelier."""
    logits = spoken(tokenizer, text)
    for heard, misheard in alternatives.items():
        index, other = tokenizer.convert_tokens_to_ids([heard, misheard])
        logits[logits[:, index] > 0, other] = 6.5
    return logits


needs_flashlight = pytest.mark.skipif(find_spec("flashlight") is None, reason="beam search needs the extra [lm]")


def test_greedy_text_is_the_tokenizers_own(tokenizer, config):
    decoder = GreedyDecoder(tokenizer, config)
    logits = torch.randn(8, 60, len(tokenizer))
    logits[:, :, 1:4] -= 100  # special tokens: the tokenizer alone would write them out
    logits[:, 20:30, 0] += 9
    transcripts = decoder.decode(logits, torch.full((8,), 60))
    expected = tokenizer.batch_decode(logits.argmax(-1))
    assert [each.text for each in transcripts] == [" ".join(text.split()) for text in expected]


def test_padded_frames_say_nothing(tokenizer, config):
    logits = torch.stack([spoken(tokenizer, "abc"), spoken(tokenizer, "xyz")])
    short, whole, silent = GreedyDecoder(tokenizer, config).decode(logits[[0, 1, 1]], torch.tensor([3, 9, 0]))
    assert (short.text, whole.text, silent.text) == ("a", "xyz", "")
    assert silent.words == silent.characters == ()


def test_times_are_those_of_the_frames(tokenizer, config):
    transcript = decode_one(GreedyDecoder(tokenizer, config), spoken(tokenizer, "ab c", frames_each=2))
    assert transcript.text == "ab c"
    assert [span.text for span in transcript.characters] == ["a", "b", "c"]
    times = [time for span in transcript.characters for time in span[1:3]]
    assert times == pytest.approx([0.0, 0.04, 0.06, 0.1, 0.18, 0.22])  # 20 ms a frame, 3 frames a character
    assert [(word.text, round(word.start, 3), round(word.end, 3)) for word in transcript.words] == [
        ("ab", 0.0, 0.1),
        ("c", 0.18, 0.22),
    ]


def test_a_double_letter_is_two_characters(tokenizer, config):
    transcript = decode_one(GreedyDecoder(tokenizer, config), spoken(tokenizer, "aab"))
    assert transcript.text == "aab" and len(transcript.characters) == 3


def test_special_tokens_are_never_text(tokenizer, config):
    logits = spoken(tokenizer, "ab")
    logits[4, 3] = 20  # <unk>
    assert decode_one(GreedyDecoder(tokenizer, config), logits).text == "ab"


def test_another_models_tokenizer_is_refused(tokenizer):
    with pytest.raises(ValueError, match="the head has 20 outputs: load the tokenizer"):
        GreedyDecoder(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=20))
    with pytest.raises(ValueError, match="the head has 50 outputs: load the tokenizer"):
        GreedyDecoder(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=50))
    with pytest.raises(ValueError, match=r"blank is config\.pad_token_id = 3"):
        GreedyDecoder(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=len(tokenizer), pad_token_id=3))


@pytest.fixture
def phones(tmp_path):
    """A tokenizer of phones, some of them several characters, and what it says of a path."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "m", "\u026a", "t\u0283", "a\u026a"]
    (tmp_path / "phones.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2PhonemeCTCTokenizer(str(tmp_path / "phones.json"), do_phonemize=False)
    return tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=len(tokens))


def test_phones_stand_apart_as_stock_writes_them(phones):
    tokenizer, config = phones
    logits = 20.0 * torch.eye(8)[[4, 0, 5, 6, 6, 0, 7]]
    transcript = decode_one(GreedyDecoder(tokenizer, config), logits)
    assert transcript.text == tokenizer.decode(logits.argmax(-1)) == "m \u026a t\u0283 a\u026a"
    assert [word.text for word in transcript.words] == transcript.text.split()


def test_phones_are_aligned_learnt_and_left_as_they_are_written(phones):
    tokenizer, config = phones
    logits = 20.0 * torch.eye(8)[[4, 0, 5, 6, 6, 0, 7]]
    words = align_text("m \u026a t\u0283 a\u026a", logits, Alphabet(tokenizer, config)).words
    assert [(word.text, round(word.start, 3)) for word in words] == [
        ("m", 0.0), ("\u026a", 0.04), ("t\u0283", 0.06), ("a\u026a", 0.12)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"phones that the model can't write \(a t\)"):
        align_text("t a", logits, Alphabet(tokenizer, config))
    rows = Dataset.from_dict({"name": ["r"], "num_samples": [16_000], "text": ["m t\u0283 \u026a"]})
    labelled, _, _ = add_labels(rows, tokenizer, fitting_normalization(tokenizer), config)
    assert labelled["labels"] == [[4, 6, 5]]


def test_the_longest_token_that_fits_spells_a_text(tmp_path):
    tokenizer = make_tokenizer(tmp_path, ["<pad>", "<unk>", "|", "a", "c", "h", "ch", "sch"])
    alphabet = Alphabet(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=8))
    ids = alphabet.spell("scha ach")
    assert ids == [7, 3, 2, 3, 6] and tokenizer.decode(ids) == "scha ach"
    assert alphabet.unknown("sha") == {"s"}


@pytest.mark.parametrize("delimiter", ["|", " ", "_", "<space>"])
def test_whatever_token_stands_between_words_they_are_read_and_spelt(tmp_path, delimiter):
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, delimiter: 2, "a": 3, "b": 4}))
    for named in {delimiter, "|" if delimiter == " " else delimiter}:
        tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), word_delimiter_token=named)
        config = SSLWav2Vec2Config.preset("tiny", vocab_size=5)
        decoders = [GreedyDecoder(tokenizer, config)]
        if find_spec("flashlight"):
            decoders.append(BeamDecoder(tokenizer, config))
        for decoder in decoders:
            assert decoder.alphabet.spell("a b") == [3, 2, 4]
            transcript = decode_one(decoder, 9.0 * torch.eye(5)[[3, 2, 4, 0]])
            assert [word.text for word in transcript.words] == ["a", "b"]


def test_a_head_smaller_than_its_tokenizer_is_taken_as_it_is(tmp_path):
    tokenizer = make_tokenizer(tmp_path, ["a", "b", "|", "<unk>", "<pad>"])  # adds <s> and </s>, which no output has
    decoder = GreedyDecoder(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=5, pad_token_id=4))
    assert len(tokenizer) == 7
    assert decode_one(decoder, 9.0 * torch.eye(5)[[0, 2, 1, 4]]).text == "a b"


def test_training_scores_the_text_that_evaluation_scores(tokenizer, processor, config, make_tiny, tmp_path):
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=len(tokenizer))
    args = SpeechCTCTrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", report_to="none",
                                      load_best_model_at_end=False)  # fmt: skip
    trainer = SpeechCTCTrainer(model, args, processing_class=processor, normalization=TextNormalization())
    path = tokenizer.convert_tokens_to_ids(["a", "<s>", "b", "|", "</s>", "c"])
    logits = 20.0 * torch.eye(len(tokenizer))[path]
    evaluated = CTCRecognizer("x", model, processor, GreedyDecoder(tokenizer, model.config)).search
    assert decode_one(trainer.decoder, logits).text == decode_one(evaluated, logits).text == "ab c"


def make_tokenizer(folder, tokens) -> Wav2Vec2CTCTokenizer:
    file = folder / "vocab.json"
    file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    return Wav2Vec2CTCTokenizer(str(file))


def test_a_script_without_spaces_is_one_word(tmp_path):
    tokens = ["<pad>", "<unk>", *"\u6771\u4eac\u90fd"]
    tokenizer = make_tokenizer(tmp_path, tokens)  # adds <s>, </s> and | behind the head's outputs
    config = SSLWav2Vec2Config.preset("tiny", vocab_size=len(tokens))
    logits = 6.0 * torch.eye(len(tokens))[[2, 2, 0, 3, 4, 0]]
    decoders = [GreedyDecoder(tokenizer, config)]
    if find_spec("flashlight"):
        decoders.append(BeamDecoder(tokenizer, config))
    for decoder in decoders:
        transcript = decode_one(decoder, logits)
        assert transcript.text == "\u6771\u4eac\u90fd"
        assert len(transcript.words) == 1 and len(transcript.characters) == 3


@pytest.mark.parametrize(
    ("python", "word"),
    [((3, 12), r"pip install flashlight-text"), ((3, 13), "for Python 3.11 and 3.12 but not yet for 3.13")],
)
def test_beam_search_without_its_library_says_what_helps_on_this_python(python, word, tokenizer, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    version = namedtuple("Version", "major minor")(*python)
    monkeypatch.setattr("hf_ssl_speech.recognition.decoding.sys", SimpleNamespace(version_info=version))
    with pytest.raises(ImportError, match=word):
        BeamDecoder(tokenizer, config)


def test_a_tokenizer_that_writes_lower_case_reads_lower_case(tmp_path):
    tokenizer = make_tokenizer(tmp_path, ["<pad>", "<unk>", "|", "A", "B"])
    tokenizer.do_lower_case = True
    decoder = GreedyDecoder(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=5))
    assert decode_one(decoder, 6.0 * torch.eye(5)[[3, 2, 4]]).text == "a b"
    assert decoder.alphabet.spell("a b") == [3, 2, 4]


@needs_flashlight
def test_a_beam_without_a_language_model_finds_what_is_said_and_when(tokenizer, config):
    logits = spoken(tokenizer, "the cat sat")
    beam = decode_one(BeamDecoder(tokenizer, config), logits)
    greedy = decode_one(GreedyDecoder(tokenizer, config), logits)
    assert beam.text == greedy.text == "the cat sat"
    assert beam.words == greedy.words and beam.characters == greedy.characters


@needs_flashlight
def test_a_beam_sums_the_paths_of_a_text_where_greedy_takes_one(tokenizer, config):
    # Two frames, P(a) = .4, P(blank) = .6 in both: the likeliest path is empty (.36), the likeliest text is "a".
    blank, letter = tokenizer.convert_tokens_to_ids(["<pad>", "a"])
    logits = torch.full((2, len(tokenizer)), -50.0)
    logits[:, blank], logits[:, letter] = torch.tensor(0.6).log(), torch.tensor(0.4).log()
    assert decode_one(GreedyDecoder(tokenizer, config), logits).text == ""
    decoder = BeamDecoder(tokenizer, config)
    assert decode_one(decoder, logits).text == "a"


@needs_flashlight
def test_words_of_a_language_model_correct_the_ear(tokenizer, config, tmp_path):
    write_ngram(SENTENCES, tmp_path / "lm.arpa", order=2)
    logits = doubtful(tokenizer, "the cat sat on the mat", {"c": "k", "m": "n"})
    assert decode_one(GreedyDecoder(tokenizer, config), logits).text == "the kat sat on the nat"
    transcript = decode_one(BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa"))), logits)
    assert transcript.text == "the cat sat on the mat"
    assert [word.text for word in transcript.words] == transcript.text.split()
    assert transcript.words[-1].end == pytest.approx((len(logits) - 1) * 0.02)


@needs_flashlight
@pytest.mark.parametrize("prepare", [str, as_characters])
def test_other_weights_give_the_search_that_is_made_with_them(tokenizer, config, tmp_path, prepare):
    write_ngram(map(prepare, SENTENCES), tmp_path / "lm.arpa", order=3)
    logits = doubtful(tokenizer, "the cat sat", {"c": "k"})
    first = BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa")))
    before = decode_one(first, logits)
    for weights in (dict(lm_weight=0.3, word_score=2.0), dict(lm_weight=4.0, word_score=-3.0)):
        made = BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa"), **weights))
        other = first.reweighed(**weights)
        assert other.settings == made.settings
        assert decode_one(other, logits) == decode_one(made, logits) != before
    assert decode_one(first, logits) == before


@needs_flashlight
def test_the_last_word_needs_no_delimiter_and_is_never_a_part_of_a_word(tokenizer, config, tmp_path):
    (tmp_path / "words.txt").write_text("seven\nsix\n")
    decoder = BeamDecoder(tokenizer, config, BeamSettings(words=str(tmp_path / "words.txt")))
    assert decode_one(decoder, spoken(tokenizer, "six seven")).text == "six seven"
    assert set(decode_one(decoder, spoken(tokenizer, "six sev")).text.split()) <= {"six", "seven"}


@needs_flashlight
def test_a_language_model_of_characters_lets_new_words_through(tokenizer, config, tmp_path):
    write_ngram(map(as_characters, SENTENCES), tmp_path / "lm.arpa", order=4)
    decoder = BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa"), lm_weight=2.0))
    logits = doubtful(tokenizer, "the cat", {"c": "k"})
    assert decode_one(decoder, logits).text == "the cat"
    assert decode_one(decoder, spoken(tokenizer, "the hat", sure=20.0)).text == "the hat"


@needs_flashlight
def test_silence_is_an_empty_text_for_every_decoder(tokenizer, config, tmp_path):
    write_ngram(SENTENCES, tmp_path / "lm.arpa")
    logits = torch.zeros(30, len(tokenizer))
    logits[:, tokenizer.pad_token_id] = 20
    for decoder in (
        GreedyDecoder(tokenizer, config),
        BeamDecoder(tokenizer, config),
        BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa"))),
    ):
        assert decode_one(decoder, logits).text == ""


@needs_flashlight
def test_a_language_model_in_the_other_case_is_refused(tokenizer, config, tmp_path):
    write_ngram([text.upper() for text in SENTENCES], tmp_path / "lm.arpa")
    with pytest.raises(ValueError, match=r"9 of its 9 words .* can't write \(A C D .*lower case only"):
        BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa")))


@needs_flashlight
def test_a_few_foreign_words_of_a_language_model_are_left_out_with_a_warning(tokenizer, config, tmp_path, caplog):
    words = [first + second for first in "abcdef" for second in LETTERS]
    write_ngram([*words, "smörgås"], tmp_path / "lm.arpa")
    with caplog.at_level(logging.WARNING):
        decoder = BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.arpa")))
    assert "1 of 163 words are left out" in caplog.text and "å ö" in caplog.text
    assert decode_one(decoder, spoken(tokenizer, "ab", sure=20.0)).text == "ab"


@needs_flashlight
def test_missing_damaged_and_binary_language_models_are_told_in_words(tokenizer, config, tmp_path):
    with pytest.raises(ValueError, match=r"There is no file .*nothing\.arpa"):
        BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "nothing.arpa")))
    (tmp_path / "text.arpa").write_text("the cat\n")
    with pytest.raises(ValueError, match=r"KenLM can't read .*text\.arpa"):
        BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "text.arpa")))
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"binary format .* `words`"):
        BeamDecoder(tokenizer, config, BeamSettings(str(tmp_path / "lm.bin")))


def test_settings_of_a_beam_travel_with_their_folder(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "lm.arpa").write_text("")
    BeamSettings(str(tmp_path / "one" / "lm.arpa"), lm_weight=1.5).save(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    loaded = BeamSettings.load(tmp_path / "two")
    assert loaded == BeamSettings(str(tmp_path / "two" / "lm.arpa"), lm_weight=1.5)
    (tmp_path / "two" / "decoder.json").write_text('{"weight": 2}')
    with pytest.raises(ValueError, match=r"decoder\.json does not hold settings"):
        BeamSettings.load(tmp_path / "two")


def test_an_aligned_path_writes_its_text_in_the_likeliest_way(tokenizer, config):
    logits = spoken(tokenizer, "abba").log_softmax(-1)
    ids = tokenizer("abba").input_ids
    alphabet = Alphabet(tokenizer, config)
    path, scores = align_tokens(logits, ids, alphabet)
    assert torch.equal(path, logits.argmax(-1))
    assert torch.equal(scores, logits.amax(-1).double())
    with pytest.raises(ValueError, match="4 characters need 5 frames, but the audio makes 4"):
        align_tokens(logits[:4], ids, alphabet)


@pytest.fixture
def recognizer(make_tiny, tokenizer, processor):
    """A tiny CTC model whose text changes along noise."""

    def make(model_class=SSLWav2Vec2ForCTC, **fields):
        model = make_tiny(model_class, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **fields)
        with torch.no_grad():  # what every frame has in common would drown what makes them differ
            logits = model(torch.randn(1, 32_000)).logits
            model.lm_head.bias -= logits.mean((0, 1))
            model.lm_head.weight *= 10
            model.lm_head.bias *= 10
        return model, processor

    return make


def noise_rows(*lengths):
    rng = torch.Generator().manual_seed(1)
    return [
        {"name": f"noise {place}", "num_samples": length, "samples": (torch.randn(length, generator=rng) * 3e3).numpy()}
        for place, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("model_class", [SSLWav2Vec2ForCTC, SSLHubertForCTC, Wav2Vec2ForCTC])
def test_a_row_says_in_a_batch_what_it_says_alone(recognizer, model_class, architecture):
    model, processor = recognizer(model_class, **architecture)
    rows = noise_rows(9_000, 16_000, 12_345, 16_000, 700)
    together = transcribe(model, processor, rows)
    alone = [transcribe(model, processor, [row])[0] for row in rows]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], rel=1e-4)
    assert len(set(each.text for each in together)) > 3


def test_rows_come_back_in_their_order_whatever_the_batches(recognizer):
    rows = noise_rows(*range(4_000, 16_000, 1_000))
    texts = [[each.text for each in transcribe(*recognizer(), rows, batch_seconds=seconds)] for seconds in (0.1, 3, 60)]
    assert texts[0] == texts[1] == texts[2]


def test_audio_with_nothing_in_it_gives_an_empty_transcript_and_a_warning(recognizer, caplog):
    rows = noise_rows(8_000, 399, 0, 8_000)
    flat = {"array": torch.zeros(800).numpy(), "sampling_rate": 16_000}
    rows.append({"name": "flat", "num_samples": 800, "audio": flat})
    with caplog.at_level(logging.WARNING):
        transcripts = transcribe(*recognizer(), rows)
    assert [bool(each.text) for each in transcripts] == [True, False, False, True, False]
    assert "noise 1: 399 samples are shorter than a frame" in caplog.text
    assert "flat: silent" in caplog.text
    assert transcribe(*recognizer(), []) == []


def test_a_checkpoint_without_a_ctc_head_is_refused(make_tiny, recognizer, processor, tmp_path):
    make_tiny(SSLWav2Vec2ForPreTraining).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match=r"SSLWav2Vec2ForPreTraining without a CTC head.*hf-ssl-speech finetune"):
        load_recognizer(tmp_path / "pretrained")
    WhisperConfig().save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match=r"of type 'whisper', which can't write through a CTC head here; expected"):
        load_recognizer(tmp_path / "whisper")
    with pytest.raises(ValueError, match=r"No recogniser can be loaded from .*nowhere"):
        load_recognizer(tmp_path / "nowhere")
    model, _ = recognizer()
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="has no processor"):
        load_recognizer(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights that can be loaded"):
        load_recognizer(tmp_path / "bare")


@pytest.mark.parametrize("cache", [True, False])
def test_the_channel_that_was_prepared_is_the_one_that_is_heard(recognizer, cache, tmp_path):
    both = np.random.default_rng(0).normal(scale=0.1, size=(8_000, 2)).astype(np.float32)
    for name, waveform in (("both", both), ("1", both[:, 0]), ("2", both[:, 1])):
        soundfile.write(tmp_path / f"{name}.wav", waveform, 16_000)
    parts = recognizer()
    for channel in (1, 2):
        rows, _ = prepare_speech(load_speech([str(tmp_path / "both.wav")]), min_seconds=0, channel=channel, cache=cache)
        alone, _ = prepare_speech(load_speech([str(tmp_path / f"{channel}.wav")]), min_seconds=0, cache=cache)
        assert transcribe(*parts, rows)[0].text == transcribe(*parts, alone)[0].text


@pytest.mark.parametrize("model_class", [SSLHubertForCTC, Wav2Vec2ForCTC])
def test_a_saved_recognizer_says_the_same(recognizer, model_class, tmp_path):
    model, processor = recognizer(model_class)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rows = noise_rows(16_000, 8_000)
    loaded = load_recognizer(tmp_path, device="cpu")
    assert type(loaded[0]) is model_class
    assert transcribe(*loaded, rows) == transcribe(model, processor, rows)


def test_a_tokenizer_of_another_size_is_refused_when_loading(recognizer, make_tiny, tokenizer, processor, tmp_path):
    make_tiny(Wav2Vec2ForCTC, vocab_size=12).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the head has 12 outputs"):
        load_recognizer(tmp_path)


@needs_flashlight
def test_the_recipes_make_a_language_model_and_find_weights_for_it(recognizer, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import make_ngram
    import tune_decoder

    model, processor = recognizer()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", rng.uniform(-1, 1, 8_000), 16_000)
    audio = [str(tmp_path / f"{number}.wav") for number in range(3)]
    Dataset.from_dict({"audio": audio, "text": ["The cat!", "A dog.", "the dog ran"]}).save_to_disk(tmp_path / "data")

    common = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--split", "train"]
    arpa_file = str(tmp_path / "model" / "lm.arpa")
    make_ngram.main([*common, "--output_file", arpa_file, "--order", "2"])
    assert sorted(read_words(arpa_file)) == ["a", "cat", "dog", "ran", "the"]
    weights = ["--lm_weights", "0.5", "2", "--word_scores", "-1", "0", "3"]
    tune_decoder.main([*common, *weights, "--language_model", arpa_file, "--output_dir", str(tmp_path / "model")])
    printed = caplog.text
    best = BeamSettings.load(tmp_path / "model")
    assert (best.language_model, best.lm_weight in (0.5, 2), best.word_score in (-1, 0, 3)) == (arpa_file, True, True)
    surface = [float(rate) for rate in re.findall(r"([\d.]+)%", printed.split("(right):")[1].split("Best")[0])]
    assert len(surface) == 6 and f"WER {min(surface):.2f}%" in printed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_become_no_text(tokenizer, config, value):
    logits = spoken(tokenizer, "the cat")
    logits[3, 5] = value
    decoders = [GreedyDecoder(tokenizer, config)]
    decoders += [BeamDecoder(tokenizer, config)] if find_spec("flashlight") else []
    for decoder in decoders:
        with pytest.raises(ValueError, match=f"logits hold NaN or infinity in 1 of {len(logits)} frames"):
            decode_one(decoder, logits)
        padded = torch.cat([spoken(tokenizer, "the cat"), logits[3:4]])[None]
        assert decoder.decode(padded, torch.tensor([len(logits)]))[0].text == "the cat", "padding is not looked at"
    with pytest.raises(ValueError, match="NaN or infinity"):
        align_tokens(logits.log_softmax(-1), tokenizer("the cat").input_ids, tokenizer.pad_token_id)
    with pytest.raises(ValueError, match="NaN or infinity"):
        align_text("the cat", logits, decoders[0].alphabet)


def test_a_token_that_is_ruled_out_by_minus_infinity_is_a_number_all_the_same(tokenizer, config):
    logits = spoken(tokenizer, "the cat")
    logits[:, tokenizer.convert_tokens_to_ids("z")] = -float("inf")
    decoder = GreedyDecoder(tokenizer, config)
    assert decode_one(decoder, logits).text == align_text("the cat", logits, decoder.alphabet).text == "the cat"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0"),
        ({"beam_threshold": 0.0}, "beam_threshold is 0"),
        ({"lm_weight": float("nan")}, "lm_weight is nan"),
        ({"word_score": float("inf")}, "word_score is inf"),
    ],
)
def test_a_search_that_can_not_go_is_refused_at_once(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        BeamSettings(**settings)
    (tmp_path / "decoder.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        BeamSettings.load(tmp_path)


@pytest.mark.parametrize("content", ["", " \n\n", "\\data\\\nngram 1=2\n\n\\1-grams:\n-1 <s>\n-1 </s>\n\\end\\\n"])
def test_a_list_without_words_is_refused_and_does_not_open_the_search(tokenizer, config, tmp_path, content):
    (tmp_path / "words.txt").write_text(content)
    with pytest.raises(ValueError, match=r"words.txt holds no words to choose from"):
        BeamDecoder(tokenizer, config, BeamSettings(words=str(tmp_path / "words.txt")))
