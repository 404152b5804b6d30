"""Transcripts as the writers of each language expect them, and what no setting can know."""

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features

from hf_ssl_speech import SSLWav2Vec2Config, TextNormalization, add_labels, make_processor
from hf_ssl_speech.recognition.doubts import find_doubts, warn_of_doubts
from hf_ssl_speech.recognition.text import fitting_normalization, read_texts

# Language, script, sentence, how its writers would have it normalised, and why.
SENTENCES = json.loads(Path(__file__).with_name("transcripts.json").read_text(encoding="utf-8"))
APOSTROPHES = "'\u2019\u2018\u00b4\u0060\u02bc\u02bb\u2032\uff07\u201b"


@pytest.mark.parametrize("row", SENTENCES, ids=lambda row: row["language"])
def test_a_sentence_is_written_as_its_writers_would(row):
    normalization = TextNormalization(language=row["language"])
    written = normalization(row["sentence"])
    assert written == row["normalised"], row["reason"]
    assert normalization(written) == written


def test_the_table_has_twenty_languages_and_twelve_scripts():
    assert len({row["language"] for row in SENTENCES}) >= 20
    assert len({row["script"] for row in SENTENCES}) >= 12


@pytest.mark.parametrize("mark", APOSTROPHES)
def test_whatever_is_typed_for_an_apostrophe_is_one_inside_a_word(mark):
    normalization = TextNormalization()
    assert normalization(f"don{mark}t п{mark}ять") == "don't п'ять"
    assert TextNormalization(keep_characters="\u2019")(f"don{mark}t") == "don\u2019t"
    assert TextNormalization(keep_characters="")(f"don{mark}t") == "don t"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("'twas", "'twas"),
        ("the dogs\u2019", "the dogs'"),
        ("he said \u2018yes\u2019.", "he said yes"),
        ("'a 'b' c'", "a b c"),
        ("``quoted''", "quoted"),
        ("\u201aGänsefüßchen\u2018", "gänsefüßchen"),
        ("\u2039dit\u203a", "dit"),
        ("' '", ""),
        ("l'«œuvre» d’\u201curgence\u201d, qu'«\u00a0elle\u00a0»", "l'œuvre d'urgence qu'elle"),
        ('the dogs\' "bones", he said "dogs\'"', "the dogs' bones he said dogs'"),
        ("don&#39;t &amp; won&rsquo;t", "don't won't"),
    ],
)
def test_quotation_marks_are_no_part_of_words_and_apostrophes_are(text, written):
    assert TextNormalization()(text) == written


def test_no_character_leaves_something_that_nobody_sees():
    normalization = TextNormalization()
    for place in range(0x110000):
        character = chr(place)
        if unicodedata.category(character) in ("Cf", "Cc", "Cs", "Me") or 0xFE00 <= place <= 0xFE0F:
            assert normalization(f"a{character}b") in ("ab", "a b"), hex(place)


def test_tags_are_words_only_where_the_setting_says_so():
    assert TextNormalization(tags="keep")("so <unk> we [laughter]") == "so unk we laughter"
    assert TextNormalization()("if a < b and c > d") == "if a b and c d"
    assert TextNormalization()("<|en|> so <sil/> we") == "so we"


@pytest.mark.parametrize(
    ("settings", "text", "written"),
    [
        ({"case": "upper", "language": "tr"}, "ısparta iyi", "ISPARTA İYİ"),
        ({"case": "upper", "language": "el"}, "τι κάνεις, ΐδιε", "ΤΙ ΚΑΝΕΙΣ ΪΔΙΕ"),
        ({"case": "upper"}, "თბილისი", "თბილისი"),
        ({}, "İstanbul i\u0307yi", "istanbul iyi"),  # no combining dot, whoever lowered it
        ({"language": "tr-TR"}, "IŞIK", "ışık"),
        ({"language": "tur"}, "IŞIK", "ışık"),
        ({"language": "ga"}, "an tUisce", "an t uisce"),
        ({"unicode_form": "NFC"}, "ﬁve", "ﬁve"),
        ({"unicode_form": "NFD"}, "é", "e\u0301"),
    ],
)
def test_case_and_form_follow_the_settings(settings, text, written):
    assert TextNormalization(**settings)(text) == written


def test_powers_and_fractions_are_not_joined_to_the_number_before_them():
    for text in ("10²", "1½", "10⁻³", "word¹"):
        assert TextNormalization(punctuation="keep")(text) not in ("102", "11⁄2", "10−3", "word1")
    assert TextNormalization()("5 m², 5 ㎡, 1½ ½ ２²") == "5 m² 5 m² 1½ ½ 2²"
    assert "digits" in find_doubts(["1½"], TextNormalization())


def test_a_language_that_is_no_code_is_refused():
    with pytest.raises(ValueError, match="language is 'turkish': give an ISO 639 code"):
        TextNormalization(language="turkish")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("in 1990 we met", "digits"),
        ("\u0669 people", "digits"),
        ("so <unk> [laughter]", "tags"),
        ("100% & more", "symbols that are read aloud"),
        ("he left (laughs)", "parentheses"),
        ("the c\u043ede", "words of two alphabets"),
        ("\u3010laughs\u3011 yes", "parentheses"),
        ("yes *laughs*", "parentheses"),
        ("caf\u00c3\u00a9", "characters that a wrong encoding left"),
        ("it\x92s", "characters that a wrong encoding left"),
        ("a \ue000 font's own letter", "characters that a wrong encoding left"),
        ("\u0437\u0430\u0301\u043c\u043e\u043a", "stress marks"),
        ("\u0e19\u0e49\u0e33\u200b\u0e43\u0e08", "zero-width spaces in a script without spaces"),
        ("\u0130stanbul", "the letters \u0130 or \u0131"),
        ("\u0643\u064e\u062a\u064e\u0628", "vowel points"),
    ],
)
def test_what_no_setting_can_know_is_counted(text, kind, caplog):
    plain = "\u0643\u062a\u0628"
    found = find_doubts([text, plain, text], TextNormalization())
    assert found[kind]["texts"] == 2
    assert kind not in find_doubts([plain], TextNormalization())
    with caplog.at_level(logging.WARNING):
        assert warn_of_doubts([text, plain, text], TextNormalization())[kind] == 2
    assert f"2 of 3 transcripts hold {kind}" in caplog.text


def test_a_reference_of_html_is_no_number_and_no_symbol():
    assert find_doubts(["it&#8217;s", "&lt;3"], TextNormalization()).keys() == {"digits"}  # of <3


def test_a_named_language_has_no_doubt_about_its_i():
    assert find_doubts(["\u0130stanbul"], TextNormalization(language="tr")) == {}


def rows_with(texts) -> Dataset:
    count = len(texts)
    names = [f"row-{i}" for i in range(count)]
    return Dataset.from_dict({"name": names, "num_samples": [32_000] * count, "text": texts})


@pytest.mark.parametrize(
    ("texts", "way_out"),
    [
        ([None, 7], r"holds int '7' \(the column's type is Value\('int64'\)\).*cast_column"),
        ([None, 0.5], "holds float '0.5'.*cast_column"),
        ([None, ["a", "b"]], "holds list.*Join its entries"),
        ([None, {"en": "a"}], "holds dict.*Name the field"),
        ([None, True], "holds bool"),
        ([None, b"a"], "holds bytes.*Decode it"),
    ],
)
def test_transcripts_that_are_no_text_are_refused_with_column_row_and_way_out(texts, way_out):
    rows, tokenizer = rows_with(texts), make_processor(["ab"]).tokenizer
    with pytest.raises(ValueError, match=f"Column 'text' should hold transcripts as text, but row-1 {way_out}"):
        add_labels(rows, tokenizer, TextNormalization(), SSLWav2Vec2Config())


def test_class_labels_are_numbers_too_and_no_text_at_all_is_none():
    labels = Dataset.from_dict({"text": [0, 1]}, features=Features({"text": ClassLabel(names=["a", "b"])}))
    with pytest.raises(ValueError, match="row 0 holds int"):
        read_texts(labels, "text")
    assert read_texts(rows_with([None, None]), "text") == ["", ""]
    with pytest.raises(ValueError, match="There is no column 'sentence' with transcripts; there are: name"):
        read_texts(labels.rename_column("text", "name"), "sentence")


def test_a_vocabulary_without_a_word_about_it_tells_how_its_transcripts_are_written():
    for texts, came, written in (
        (["A-B'"], "a-b\u2019", "A-B'"),
        (["\u043f\u02bc\u044f"], "П'я", "\u043f\u02bc\u044f"),
        (["ab"], "A, b!", "a b"),
        (["\u00bd"], "\u00bd", "\u00bd"),
    ):
        assert fitting_normalization(make_processor(texts).tokenizer)(came) == written
