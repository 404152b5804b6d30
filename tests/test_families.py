"""The families of speech models in transformers: what works with them is proved on tiny models of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    AutoModel,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

import hf_ssl_speech
from hf_ssl_speech.data.families import FAMILIES, USES, encoder_of, extractor_of, hearing_of
from hf_ssl_speech.data.features import HiddenFeatures
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.evaluation.recognizers import is_seq2seq, load_seq2seq
from hf_ssl_speech.models.frames import hop_samples, num_frames, window_samples
from hf_ssl_speech.recognition.alignment import add_alignment
from hf_ssl_speech.recognition.text import make_processor
from hf_ssl_speech.recognition.transcript import Alphabet
from hf_ssl_speech.recognition.transcription import compute_logits, load_recognizer
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.layers import EveryLayer

EXACT = 1e-10  # in float64; other frames differ by 1e-3 and more
AS_FLOAT32 = dict(rtol=2e-7, atol=1e-9)  # of models in float64: features become float32 at the very end
# Every remainder of SEW's pairs of frames and of w2v-BERT's pairs of spectra is among them.
LENGTHS = (4_000, 1_680, 3_999, 4_000, 1_517, 2_641)
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=8)
WAVEFORM = SIZES | dict(
    conv_dim=(16,) * 7, conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2),
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)  # fmt: skip
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
ADAPTER = dict(add_adapter=True, output_hidden_size=32)
BUCKETS = dict(num_buckets=16, max_bucket_distance=40)
CONFORMER = dict(conv_depthwise_kernel_size=5, feat_extract_norm="layer")
DATA2VEC = WAVEFORM | dict(num_conv_pos_embeddings=3, conv_pos_kernel_size=5)
BERT = SIZES | dict(conv_depthwise_kernel_size=5)
POSITIONS = dict(max_position_embeddings=64, position_buckets=16)
ENDS = dict(pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=2)
# Those with a CTC head: the class of the configuration, its fields.
CTC = {
    "ours, wav2vec2": ("SSLWav2Vec2Config", WAVEFORM),
    "ours, hubert": ("SSLHubertConfig", WAVEFORM | LARGE),
    "wav2vec2": ("Wav2Vec2Config", WAVEFORM),
    "wav2vec2, large": ("Wav2Vec2Config", WAVEFORM | LARGE),
    "wav2vec2, MMS": ("Wav2Vec2Config", WAVEFORM | LARGE | dict(adapter_attn_dim=4)),
    "wav2vec2, adapter": ("Wav2Vec2Config", WAVEFORM | LARGE | ADAPTER),
    "hubert": ("HubertConfig", WAVEFORM),
    "hubert, large": ("HubertConfig", WAVEFORM | LARGE),
    "hubert, batch norm": ("HubertConfig", WAVEFORM | LARGE | dict(conv_pos_batch_norm=True)),
    "wavlm": ("WavLMConfig", WAVEFORM | BUCKETS),
    "wavlm, large": ("WavLMConfig", WAVEFORM | LARGE | BUCKETS),
    "wavlm, adapter": ("WavLMConfig", WAVEFORM | LARGE | BUCKETS | ADAPTER),
    "unispeech": ("UniSpeechConfig", WAVEFORM),
    "unispeech, large": ("UniSpeechConfig", WAVEFORM | LARGE),
    "unispeech-sat": ("UniSpeechSatConfig", WAVEFORM),
    "unispeech-sat, large": ("UniSpeechSatConfig", WAVEFORM | LARGE),
    "data2vec": ("Data2VecAudioConfig", DATA2VEC),
    "data2vec, adapter": ("Data2VecAudioConfig", DATA2VEC | ADAPTER),
    "conformer": ("Wav2Vec2ConformerConfig", WAVEFORM | CONFORMER),
    "conformer, rotary": ("Wav2Vec2ConformerConfig", WAVEFORM | CONFORMER | dict(position_embeddings_type="rotary")),
    "conformer, adapter": ("Wav2Vec2ConformerConfig", WAVEFORM | CONFORMER | ADAPTER),
    "w2v-bert": ("Wav2Vec2BertConfig", BERT),
    "w2v-bert, adapter": ("Wav2Vec2BertConfig", BERT | ADAPTER),
    "sew": ("SEWConfig", WAVEFORM),
    "sew, layer norm": ("SEWConfig", WAVEFORM | dict(feat_extract_norm="layer")),
    "sew-d": ("SEWDConfig", WAVEFORM | POSITIONS),
    "sew-d, layer norm": ("SEWDConfig", WAVEFORM | POSITIONS | dict(feat_extract_norm="layer")),
}
TOKENS = {
    "whisper": (
        "WhisperConfig",
        ENDS | dict(vocab_size=30, num_mel_bins=8, d_model=32, encoder_layers=3, decoder_layers=1,
                    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
                    max_source_positions=50),
    ),
    "moonshine": (
        "MoonshineConfig",
        ENDS | dict(vocab_size=30, hidden_size=32, intermediate_size=64, encoder_num_hidden_layers=3,
                    decoder_num_hidden_layers=1, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
                    encoder_num_key_value_heads=4, decoder_num_key_value_heads=4),
    ),
}  # fmt: skip
EVERY = CTC | TOKENS


def config_of(name: str):
    config_class, fields = EVERY[name]
    ours = getattr(hf_ssl_speech, config_class, None)
    return (ours or getattr(transformers, config_class))(**fields)


@pytest.fixture
def make(randomize):
    """`make(name, AutoModel)`: a model of a family with random weights, in float64."""

    def make(name: str, auto):
        return randomize(auto.from_config(config_of(name))).double().eval()

    return make


@pytest.fixture
def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"name": f"row {place}", "sample_id": place, "num_samples": length,
         "samples": rng.integers(-8_000, 8_000, length, dtype=np.int16), "text": "ab ba"}
        for place, length in enumerate(LENGTHS)
    ]  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_features_of_any_family_are_what_a_row_gives_alone_and_as_many_as_promised(name, make, rows):
    model = make(name, AutoModel)
    encoder, extractor = encoder_of(model), extractor_of(model.config, normalize=False)
    sources = {layer: HiddenFeatures(model, layer, normalize=False, batch_seconds=2) for layer in (0, 2, 3)}
    found = {layer: source.features(rows) for layer, source in sources.items()}
    description = sources[2].description
    for place, row in enumerate(rows):
        frames = description.num_frames(row["num_samples"])
        with torch.no_grad():
            alone = encoder(**inputs_of(model, extractor, row), output_hidden_states=True).hidden_states
        # Beyond what is promised: silence that Whisper is fed, and w2v-BERT's half a frame of an odd spectrum.
        odd = (row["num_samples"] - 400) // 160 % 2 == 0
        more = {"whisper": 50 - frames, "w2v-bert": int(odd)}.get(name.split(",")[0], 0)
        for layer, features in found.items():
            expected = alone[layer][0].float()
            assert len(features[place]) == frames == len(expected) - more
            torch.testing.assert_close(features[place], expected[:frames], **AS_FLOAT32)


def inputs_of(model, extractor, row):
    inputs = hearing_of(model.config).inputs(extractor, [row_waveform(row)])
    return {key: each.double() if each.is_floating_point() else each for key, each in inputs.items()}


@pytest.mark.parametrize("name", EVERY)
def test_a_label_lasts_as_long_as_its_rate_says(name):
    """A second more of audio is as many frames more as the rate says, in the model's own arithmetic too."""
    hearing = hearing_of(config_of(name))
    hop, layers = hop_samples(hearing.frame_layers), hearing.frame_layers
    assert num_frames(32_000 + 50 * hop, layers) == num_frames(32_000, layers) + 50
    milliseconds = {"sew": 40, "sew-d": 40, "moonshine": 24}.get(name.split(",")[0], 20)
    assert 1000 * hop / 16_000 == milliseconds


@pytest.mark.parametrize("name", CTC)
def test_outputs_of_any_ctc_family_are_what_a_row_gives_alone_and_as_many_as_promised(name, make, rows):
    model = make(name, AutoModelForCTC)
    processor = make_processor(["abcd abcd"])
    processor.feature_extractor = extractor_of(model.config, normalize=False)
    hearing, heard = hearing_of(model.config, "ctc"), []
    for places, logits, frames in compute_logits(model, processor, rows, batch_seconds=2):
        for place, row, length in zip(places, logits, frames.tolist()):
            with torch.no_grad():
                alone = model(**inputs_of(model, processor.feature_extractor, rows[place])).logits[0]
            assert 0 <= len(alone) - length <= (1 if name.startswith("w2v") else 0)
            torch.testing.assert_close(row[:length], alone[:length], rtol=0, atol=EXACT)
            assert length == num_frames(rows[place]["num_samples"], hearing.output_layers)
            heard.append(place)
    assert sorted(heard) == list(range(len(rows)))


@pytest.mark.parametrize("name", CTC)
def test_times_of_any_ctc_family_reach_from_the_beginning_to_the_end(name, make, rows):
    """With one long token over all outputs, whatever their rate."""
    model = make(name, AutoModelForCTC).float()
    processor = make_processor(["abcd abcd"])
    processor.feature_extractor = extractor_of(model.config, normalize=False)
    model.config.pad_token_id = processor.tokenizer.pad_token_id
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.copy_(torch.eye(8)[processor.tokenizer.convert_tokens_to_ids("a")] * 9)
    model.config.vocab_size = len(processor.tokenizer)
    model.lm_head.weight.data, model.lm_head.bias.data = model.lm_head.weight[:7], model.lm_head.bias[:7]
    aligned, _ = add_alignment(as_dataset(rows, "a"), model, processor)
    for row in aligned:
        (word,) = row["words"]
        hop = Alphabet(processor.tokenizer, model.config).hop_seconds
        assert word["start"] == 0
        assert row["num_samples"] / 16_000 - max(hop, 0.04) <= word["end"] <= row["num_samples"] / 16_000


def as_dataset(rows, text):
    columns = {column: [row[column] for row in rows] for column in rows[0]} | {"text": [text] * len(rows)}
    return Dataset.from_dict(columns)


@pytest.fixture
def moonshine(make, tmp_path) -> str:
    """A folder with Moonshine that writes letters."""
    vocabulary = {token: index for index, token in enumerate(["<unk>", "</s>", "<s>", *map(chr, range(97, 124))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False), tokenizer)
    make("moonshine", AutoModelForSpeechSeq2Seq).float().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return str(tmp_path)


def test_moonshine_writes_a_row_whatever_its_company(moonshine, rows):
    """Its first norm averages over time, so it would hear the padding of a shorter row."""
    recognizer, dataset = (
        load_seq2seq(moonshine, device="cpu", batch_seconds=60),
        as_dataset(rows, "a").with_format("numpy"),
    )
    sizes = []
    write = recognizer._write
    recognizer._write = lambda waveforms: sizes.append(len(waveforms)) or write(waveforms)
    together = recognizer.texts(dataset)
    assert sorted(sizes) == [1, 1, 1, 1, 2]
    assert together == [recognizer.texts(dataset.select([place]))[0] for place in range(len(dataset))]
    assert len(set(together)) > 1


@pytest.mark.parametrize("name", ["wav2vec2, MMS", "sew-d", "w2v-bert", "whisper", "moonshine"])
def test_all_layers_at_once_are_the_layers_one_by_one_and_units_are_made_of_them(name, make, rows, tmp_path):
    model = make(name, AutoModel)
    (every,) = EveryLayer(model, normalize=False).features(rows[:1])
    width = model.config.hidden_size
    for layer in (1, 3):
        (one,) = HiddenFeatures(model, layer, normalize=False).features(rows[:1])
        torch.testing.assert_close(every[:, (layer - 1) * width : layer * width], one, **AS_FLOAT32)
    model.float().save_pretrained(tmp_path)
    extractor_of(model.config, normalize=False).save_pretrained(tmp_path)
    source = HiddenFeatures.from_pretrained(tmp_path, 2, device="cpu")
    units = KMeansUnits.fit(as_dataset(rows, "a"), source, 3, seed=0, share=1.0)
    frames = [source.description.num_frames(length) for length in LENGTHS]
    assert list(map(len, units.predict_rows(rows, units.open_features(device="cpu")))) == frames


def test_whisper_is_given_no_more_than_it_hears(make, rows):
    rows[0] |= {"num_samples": 16_001, "samples": np.zeros(16_001, np.int16)}
    with pytest.raises(ValueError, match=r"Row row 0 has 1\.0 s, but Whisper hears 1 s at most: prepare"):
        HiddenFeatures(make("whisper", AutoModel), 1, normalize=False).features(rows)


def test_an_encoder_of_another_sampling_rate_gives_no_features(make, rows, tmp_path):
    make("hubert", AutoModel).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was trained at 8,000 Hz, but audio is read at 16,000 Hz here"):
        HiddenFeatures.from_pretrained(tmp_path, 1, device="cpu")


REFUSED = {
    "features": ("Speech2TextConfig", "ParakeetCTCConfig", "SpeechT5Config", "SeamlessM4TConfig", "BertConfig"),
    "ctc": ("ParakeetCTCConfig", "WhisperConfig", "MoonshineConfig", "LasrCTCConfig", "BertConfig"),
    "tokens": ("Speech2TextConfig", "SpeechT5Config", "SeamlessM4TConfig", "KyutaiSpeechToTextConfig"),
}


@pytest.mark.parametrize(("use", "config_class"), [(use, each) for use, classes in REFUSED.items() for each in classes])
def test_other_families_are_refused_in_a_sentence_by_their_configuration_alone(use, config_class, tmp_path):
    getattr(transformers, config_class)().save_pretrained(tmp_path)
    open_it = {
        "features": lambda: HiddenFeatures.from_pretrained(tmp_path, 1, device="cpu"),
        "ctc": lambda: load_recognizer(tmp_path, device="cpu"),
        "tokens": lambda: is_seq2seq(str(tmp_path)),
    }[use]
    said = rf"^{tmp_path} is of type '\S+', which can't {USES[use]} here; expected one of"
    with pytest.raises(ValueError, match=said):
        open_it()


def test_the_page_on_families_says_what_is_proved_here():
    page = Path(__file__).parents[1].joinpath("docs", "families.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    rows = [row for row in rows if len(row) == 8 and row[0] in FAMILIES]
    assert [row[0] for row in rows] == list(FAMILIES)
    proved = {config_of(name).model_type: name for name in reversed(EVERY)}
    assert proved.keys() == FAMILIES.keys()
    for kind, name, features, milliseconds, teacher, recogniser, alignment, _ in rows:
        hearing = hearing_of(config_of(proved[kind]))
        hop, window = hop_samples(hearing.frame_layers), window_samples(hearing.frame_layers)
        assert name == FAMILIES[kind].name and features == "yes"
        assert float(milliseconds) == hop / 16
        assert teacher == ("yes" if (hop, window) == (320, 400) else "no")
        assert recogniser == {"ctc": "CTC", "tokens": "tokens"}[FAMILIES[kind].writes]
        assert alignment == ("yes" if FAMILIES[kind].writes == "ctc" else "no")
