"""What the world's scripts and languages ask of a normal form: each rule with its reason, as pure functions of text."""

from __future__ import annotations

import functools
import unicodedata
from typing import NamedTuple

import regex

# What is typed for an apostrophe: quotation marks and accents, whose place tells what they are ...
QUOTE_LIKE = "'\u2019\u2018\u201b`\u00b4\u2032\uff07\u0384"
# ... and letters or marks that are never quotation marks: modifier letters (Ukrainian, Breton, Hawaiian, Uzbek), the
# Armenian apostrophe, the Hebrew geresh, and the Greek koronis.
LETTER_LIKE = "\u02bc\u02bb\u055a\u05f3\u1fbd\u1fbf"
APOSTROPHES = frozenset(QUOTE_LIKE + LETTER_LIKE)
WORD = r"[\p{L}\p{M}\p{N}]"
_SINGLE_MARKS = regex.compile(f"[{QUOTE_LIKE}\u201a\u2039\u203a]+")
_LETTER_LIKE = regex.compile(f"[{LETTER_LIKE}]")


# Compatibility ---------------------------------------------------------------------------------------------------

# Letters that NFKC takes apart, into what nobody writes: Thai and Lao sara am (the tone mark would stand between the
# parts), the Lao letters ho no and ho mo, the Armenian letter yev, and Korean letters that stand alone; and the numero
# sign and the ordinal indicators, with which nº would become the word no.
_WHOLE = regex.compile(r"[\u00aa\u00ba\u0e33\u0eb3\u0edc\u0edd\u0587\u2116\u3131-\u318e]")


def fold(text: str) -> str:
    """NFKC, except where it makes another spelling of a text: wide letters become narrow and ligatures letters."""
    return unicodedata.normalize("NFC", "".join(map(_fold, text)))


@functools.cache
def _fold(character: str) -> str:
    kind, _, parts = unicodedata.decomposition(character).partition(" ")
    if not kind.startswith("<"):
        return character
    raised = kind in ("<super>", "<sub>") and unicodedata.category(character) in ("Lm", "So")
    # Raised letters are letters of their own in phonetic script and in many orthographies, TM is a symbol; powers and
    # fractions would become digits of the number before them; spacing accents would become a space and a combining
    # accent; emoji are no letters.
    raised |= kind in ("<super>", "<fraction>") and unicodedata.category(character) == "No"
    if raised or parts.startswith("0020") or _WHOLE.match(character) or regex.match(r"\p{ExtPict}", character):
        return character
    if kind == "<narrow>":
        return chr(int(parts, 16))  # not further: half-width Korean letters would become parts of syllables
    return "".join(_fold(chr(int(part, 16))) for part in parts.split())


# Case and letters of a language ----------------------------------------------------------------------------------

# ISO 639-3 codes, and variants, of the languages that have rules below.
_CODES = {
    "tur": "tr", "aze": "az", "azj": "az", "tat": "tt", "ell": "el", "gle": "ga", "ron": "ro", "rum": "ro", "mo": "ro",
    "fas": "fa", "per": "fa", "pes": "fa", "prs": "fa", "urd": "ur", "swe": "sv", "fin": "fi", "cat": "ca",
}  # fmt: skip
DOTTED = {"tr", "az", "tt", "crh", "gag"}
# The same letter or digit under another code: of Arabic keyboards in Persian, Urdu, Western Punjabi and Kurdish (whose
# letter ae is also typed as a heh that does not join), of old code pages in Romanian, of an Icelandic keyboard in
# Vietnamese and Croatian, of Cyrillic and African ones in Azeri, of typewriters in Yiddish.
_ARABIC, _PERSIAN = "\u064a\u0649\u0643", "\u06cc\u06cc\u06a9"
_ARABIC_DIGITS, _PERSIAN_DIGITS = ("".join(map(chr, range(first, first + 10))) for first in (0x660, 0x6F0))
_LETTERS = {
    "ckb": str.maketrans(_ARABIC, _PERSIAN),
    "fa": str.maketrans(_ARABIC + _ARABIC_DIGITS, _PERSIAN + _PERSIAN_DIGITS),
    **dict.fromkeys(
        ("ur", "pnb"),
        str.maketrans(_ARABIC + "\u0647\u0629" + _ARABIC_DIGITS, _PERSIAN + "\u06c1\u06c3" + _PERSIAN_DIGITS),
    ),
    **dict.fromkeys(("vi", "hr", "sr", "bs"), str.maketrans("\u00d0\u00f0", "\u0110\u0111")),
    "az": str.maketrans("\u04d8\u04d9\u018e\u01dd", "\u018f\u0259\u018f\u0259"),
    "yi": str.maketrans({"\u05f0": "\u05d5\u05d5", "\u05f1": "\u05d5\u05d9", "\u05f2": "\u05d9\u05d9"}),
    "ro": str.maketrans("\u015f\u0163\u015e\u0162", "\u0219\u021b\u0218\u021a"),
}


def language_code(language: str | None) -> str | None:
    """The short code of a language: `tr` for tr, tur, tr-TR and tr_tr.

    Raises:
        ValueError: If it is no code.
    """
    if not language:
        return None
    code = regex.split("[-_]", language.strip().lower())[0]
    if not regex.fullmatch("[a-z]{2,3}", code):
        raise ValueError(f"language is {language!r}: give an ISO 639 code such as en, tr or yue.")
    return _CODES.get(code, code)


def language_letters(text: str, language: str | None) -> str:
    """A text with the codes that its language's writers mean."""
    if language == "ckb":
        text = text.replace("\u0647\u200c", "\u06d5")
    if language == "ca":  # other dots in l·l
        text = regex.sub("(?<=[lL])[\u2022\u2027\u2219\u22c5](?=[lL])", "\u00b7", text)
    return text.translate(_LETTERS[language]) if language in _LETTERS else text


def change_case(text: str, case: str, language: str | None) -> str:
    """A text in lower or upper case, by the rules of its language."""
    if case == "lower":
        return _lower(text, language)
    return _upper(text, language) if case == "upper" else text


def _lower(text: str, language: str | None) -> str:
    if language == "ga":  # nÉireann is n-éireann in lower case
        text = regex.sub(r"\b([tn])(?=[AEIOUÁÉÍÓÚ])", r"\1-", text)
    if language in DOTTED:
        text = text.replace("I", "\u0131")
    text = text.replace("\u0130", "i").lower()
    # Other programs' lower case of the dotted capital leaves a dot above a dotted letter.
    text = regex.sub(r"i\u0307(?!\p{M})", "i", text)
    return regex.sub(r"\p{Cherokee}+", lambda found: found[0].upper(), text)  # its small letters are hardly in use


def _upper(text: str, language: str | None) -> str:
    if language in DOTTED:
        text = text.replace("i", "\u0130")
    text = text.upper()
    if language == "el":  # capitals carry no accent
        text = unicodedata.normalize("NFC", regex.sub("[\u0301\u0342\u0300]", "", unicodedata.normalize("NFD", text)))
    return regex.sub("[\u1c90-\u1cbf]+", lambda found: found[0].lower(), text)  # Georgian is written in one case


# What nobody sees ------------------------------------------------------------------------------------------------

# Scripts whose letters change with a joiner between them: cursive ones and those of India and its neighbours.
_JOINED_SCRIPTS = (
    "Arabic Syriac Mandaic Nko Mongolian Adlam Hanifi_Rohingya Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu "
    "Kannada Malayalam Sinhala Khmer Myanmar Balinese Javanese Newa Grantha"
)
_JOINED = regex.sub(r"(\w+) ?", r"\\p{\1}", _JOINED_SCRIPTS)
_JOINERS = regex.compile(rf"(?<=[{_JOINED}])([\u200c\u200d])[\u200c\u200d]*(?=[{_JOINED}])")
_MONGOLIAN = regex.compile(r"(?<=\p{Mongolian})[\u180b-\u180f]+")  # variants of letters, and the vowel separator
_INVISIBLE = regex.compile(r"[\p{DI}\p{Cc}\p{Cf}\p{Cs}\p{Me}]+")
# Lines are stretched with them: Arabic tatweel, N'Ko lajanyalan, Mongolian nirugu; U+2027 shows syllables.
_STRETCHES = regex.compile("[\u0640\u07fa\u180a\u2027]+")
# Letters that are also typed as others which look the same together, each with its parts.
_IN_PARTS = (
    # Malayalam chillus and the Bengali khanda ta had a virama and a joiner before they had codes of their own; and a
    # chillu with a virama is its letter.
    *zip(("\u0d23\u0d4d\u200d", "\u0d28\u0d4d\u200d", "\u0d30\u0d4d\u200d"), "\u0d7a\u0d7b\u0d7c"),
    *zip(("\u0d32\u0d4d\u200d", "\u0d33\u0d4d\u200d", "\u0d15\u0d4d\u200d"), "\u0d7d\u0d7e\u0d7f"),
    ("\u09a4\u09cd\u200d", "\u09ce"),
    ("\u0d7b\u0d4d\u0d31", "\u0d28\u0d4d\u0d31"),
    # Thai and Lao: two sara e for sara ae; sara am as a circle and sara aa, the tone mark before, between or not there.
    ("\u0e40\u0e40", "\u0e41"),
    ("\u0e4d([\u0e48-\u0e4b]?)\u0e32|([\u0e48-\u0e4b])\u0e4d\u0e32", "\\1\\2\u0e33"),
    ("\u0ec0\u0ec0", "\u0ec1"),
    # A tone mark typed before the vowel above which it stands.
    ("([\u0e48-\u0e4b])([\u0e31\u0e34-\u0e37])", "\\2\\1"),
    ("([\u0ec8-\u0ecb])([\u0eb1\u0eb4-\u0eb7\u0ebb])", "\\2\\1"),
    ("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2|([\u0ec8-\u0ecb])\u0ecd\u0eb2", "\\1\\2\u0eb3"),
    # Khmer: the vowels oe and oo as two vowel signs.
    ("\u17c1\u17b8", "\u17be"),
    ("\u17c1\u17b6", "\u17c4"),
    # Kana: the voicing marks that stand alone.
    (r"(?<=[\p{Hiragana}\p{Katakana}])\u309b", "\u3099"),
    (r"(?<=[\p{Hiragana}\p{Katakana}])\u309c", "\u309a"),
)
_LETTERS_IN_PARTS = [(regex.compile(parts), letter) for parts, letter in _IN_PARTS]


def drop_invisible(text: str) -> str:
    """A text without what can't be seen and only stretches; joiners and variants stay where letters change with them.

    Letters in parts become whole. What goes: controls, soft hyphens, zero-width spaces, directions, variation
    selectors, fillers, enclosing marks.
    """
    text = "".join(" " if character.isspace() else character for character in text)
    text = _STRETCHES.sub("", text)
    for parts, letter in _LETTERS_IN_PARTS:
        text = parts.sub(letter, text)
    kept = {found.start(): found[0][0] for found in _JOINERS.finditer(text)}
    kept |= {found.start(): found[0] for found in _MONGOLIAN.finditer(text)}
    return _INVISIBLE.sub(lambda found: next((kept[at] for at in range(*found.span()) if at in kept), ""), text)


# Apostrophes and punctuation -------------------------------------------------------------------------------------


def write_apostrophes(text: str, apostrophe: str, *, unquote: bool) -> str:
    """A text whose apostrophes are all the same character.

    Between letters every mark is an apostrophe. At the ends of words a pair of marks is quotation marks (an opening one
    goes with the next closing one), and one without its partner is an apostrophe: dogs', 'twas.

    Args:
        apostrophe: What they become.
        unquote: Whether quotation marks go; otherwise marks at the ends of words stay as they are.
    """
    text = _LETTER_LIKE.sub(apostrophe, text)
    marks = [_Mark(found.start(), found.end(), *_neighbours(text, found)) for found in _SINGLE_MARKS.finditer(text)]
    written = {mark: apostrophe for mark in marks if mark.after and mark.before}
    if unquote:
        written |= _unquoted([mark for mark in marks if mark not in written], text, apostrophe)
    pieces, place = [], 0
    for mark in marks:
        pieces += [text[place : mark.start], written.get(mark, text[mark.start : mark.end])]
        place = mark.end
    return "".join([*pieces, text[place:]])


class _Mark(NamedTuple):
    """A run of single marks, and whether a letter stands before and after it."""

    start: int
    end: int
    before: bool
    after: bool


def _neighbours(text: str, found: regex.Match) -> tuple[bool, bool]:
    before, after = text[found.start() - 1 : found.start()], text[found.end() : found.end() + 1]
    return bool(regex.match(WORD, before)), bool(regex.match(WORD, after))


def _unquoted(marks: list[_Mark], text: str, apostrophe: str) -> dict[_Mark, str]:
    """What becomes of marks at the ends of words and of those that stand alone."""
    written: dict[_Mark, str] = {}
    opened: list[_Mark] = []
    for mark in marks:
        alone = mark.end - mark.start == 1 and text[mark.start] in QUOTE_LIKE
        written[mark] = apostrophe if alone and (mark.before or mark.after) else " "
        if mark.after:
            opened.append(mark)
        elif opened:
            opening = opened.pop()
            if text[opening.end : mark.start].lower() != "n":  # rock 'n' roll
                written[opening] = written[mark] = " "
    return written


# Scripts that put no spaces between words: a comma there is no space that somebody left.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\u30fc]"
_INSIDE = (  # what goes without a trace, standing inside or above words: (pattern, languages or None for all)
    ("[\u055b\u055c\u055e]", None),  # Armenian stress, exclamation and question, written over a vowel
    (r"(?<=\p{Hebrew})(?:\u05f4|[\"\u201c\u201d\u201e]|'')(?=\p{Hebrew})", None),  # gershayim of abbreviations
    # A quoted word after an elision: l'«œuvre».
    (r"(?<=\p{L}['\u2019\u02bc])(?:[\"\u201c\u201e]|\u00ab\s?)(?=\p{L})", None),
    (r"(?<=\p{L}):(?=\p{L})", {"sv", "fi"}),  # endings of abbreviations: EU:n, USA:s
    (rf"(?<={_UNSPACED})[\p{{P}}\p{{S}}]+|[\p{{P}}\p{{S}}]+(?={_UNSPACED})", None),
)
# What counts as punctuation but is spelling: Catalan l·l and Occitan n·h, the Tibetan tsheg between syllables, Burmese
# and Sindhi words of one sign, tones of phonetic script (and its hook for r) and of Bopomofo, and a colon and an equals
# sign that are letters.
_SPELLING = (
    r"(?<=\p{Latin})\u00b7(?=\p{Latin})|(?<=\p{Tibetan})\u0f0b(?=[\p{Tibetan}&&\p{L}])|[\u104c-\u104f\u06fd\u06fe]|"
    r"[\u02de\u02e5-\u02eb\ua700-\ua721\ua789\ua78a]|(?<=\p{Bopomofo})\u02d9|\u02d9(?=\p{Bopomofo})"
)
# A vowel that is no longer written, typed for the middle dot between words.
_KOREAN_DOT = r"(?<=[\uac00-\ud7a3])\u318d(?=[\uac00-\ud7a3])"


def drop_punctuation(text: str, keep: str, language: str | None) -> str:
    """A text whose punctuation and symbols are spaces, but for what is spelling and for the characters to keep."""
    for pattern, languages in _INSIDE:
        if languages is None or language in languages:
            text = _unless_kept(pattern, keep).sub("", text)
    return _unless_kept(rf"[\p{{P}}\p{{S}}]|{_KOREAN_DOT}", keep).sub(" ", text)


@functools.cache
def _unless_kept(pattern: str, keep: str) -> regex.Pattern:
    kept = f"[{regex.escape(keep, special_only=False)}]|" if keep else ""
    return regex.compile(rf"(?V1)(?!{kept}{_SPELLING})(?:{pattern})")
