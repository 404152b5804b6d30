"""Synthetic speech for a first run without a download: many voices, exact phones, the columns of a real corpus."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Audio, Dataset, Features, Value

from hf_ssl_speech.audio import SAMPLE_RATE, read_audio
from hf_ssl_speech.demo.espeak import ESPEAK_SAMPLE_RATE, Espeak
from hf_ssl_speech.demo.sentences import LANGUAGES, VOCABULARIES
from hf_ssl_speech.units.phones import SILENCE

MIN_UTTERANCE_SECONDS = 2.0
MAX_UTTERANCE_SECONDS = 10.0
# How long the utterances of each vocabulary are: of short ones, a minute has more.
SECONDS = {"sentences": (MIN_UTTERANCE_SECONDS, MAX_UTTERANCE_SECONDS), "digits": (1.0, 4.0)}
# A nameless event shorter than this is a glide or a glottal catch: it belongs to the phone before it.
MIN_PAUSE_SECONDS = 0.08

FEATURES = Features(
    {
        "id": Value("string"),
        "audio": Audio(sampling_rate=SAMPLE_RATE, decode=False),
        "duration": Value("float32"),
        "text": Value("string"),
        "speaker": Value("string"),
        "language": Value("string"),
        "phones": [{"phone": Value("string"), "start": Value("float32"), "end": Value("float32")}],
    }
)

# espeak-ng's variants of a voice that sound like people: no robots, no whispering.
# fmt: off
_VARIANTS = (
    "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Alicia", "Andrea",
    "Andy", "Annie", "AnxiousAndy", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco",
    "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "antonio", "aunty", "belinda", "boris", "ed", "grandma",
    "grandpa", "gustave", "ian", "iven", "john", "linda", "max", "michel", "miguel", "norbert", "pablo", "paul",
    "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor",
)
# fmt: on

# Stress belongs to the syllable, a hyphen marks a vowel that may drop, and some voices write length in ASCII.
_TO_PHONES = str.maketrans({"ˈ": None, "ˌ": None, "-": None, ":": "ː"})


@dataclass(frozen=True)
class _Speaker:
    """A voice and the room it speaks in; levels are decibels below full scale."""

    name: str
    language: str
    voice: str
    pitch: int
    words_per_minute: int
    speech_level: float
    noise_level: float


@dataclass(frozen=True)
class _Piece:
    """A stretch of an utterance: `(samples,)` at 16 kHz, and each phone's name (none in a pause) and samples."""

    waveform: np.ndarray
    segments: list[tuple[str, int]]


def synthesize_speech(
    *,
    minutes: float,
    languages: Sequence[str] = ("en", "de", "es", "fr", "it"),
    speakers: int = 50,
    seed: int = 0,
    vocabulary: str = "sentences",
) -> Dataset:
    """Speech from espeak-ng with its texts, speakers and phones, the same bytes for the same arguments.

    Speakers take turns, one utterance of about 2 to 10 seconds each, until the minutes are full; speaker `k` speaks
    language `k % len(languages)`. Utterances hold one sentence or more, with pauses, at the speaker's level over the
    noise of the speaker's room.

    Args:
        minutes: Minutes of speech, exceeded by less than the last utterance.
        languages: Codes from `LANGUAGES` of `hf_ssl_speech.demo.sentences`.
        speakers: Voices over all languages; a language with more than about 60 speakers reuses its voices, at another
            pitch and pace.
        seed: Of voices, texts, pauses and noise.
        vocabulary: `sentences`, or `digits` for ten words in each language, in utterances of about 1 to 4 seconds.
    Returns:
        A row per utterance: `id`, `audio` (FLAC bytes, 16 kHz), `duration` (seconds), `text`, `speaker`, `language`
        and `phones` (`phone` in IPA without stress or `SIL`, `start` and `end` in seconds), which cover the audio
        without gap or overlap.
    Raises:
        ImportError: If `espeakng-loader` is not installed (the `demo` extra).
        ValueError: If a language is unknown, or minutes or speakers are too few.
    """
    _check_request(minutes, languages, speakers)
    voices = _draw_speakers(languages, speakers, np.random.default_rng([seed, 0]))
    rows = []
    remaining = minutes * 60
    with closing(Espeak()) as espeak:
        while remaining > 0:
            generator = np.random.default_rng([seed, 1, len(rows)])
            row = _utterance(espeak, voices[len(rows) % speakers], generator, vocabulary)
            row["id"] = f"{row['speaker']}-{len(rows):05d}"
            row["audio"]["path"] = f"{row['id']}.flac"
            remaining -= row["duration"]
            rows.append(row)
    # Not `from_list`: encoding an Audio feature asks for torchcodec, though the bytes are encoded already.
    return Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))


def _check_request(minutes: float, languages: Sequence[str], speakers: int) -> None:
    known = [language for language in LANGUAGES if language in languages]
    if isinstance(languages, str) or not known or len(known) != len(languages):
        raise ValueError(
            f"languages={languages!r} cannot be spoken: give a list of one or more of {', '.join(LANGUAGES)}."
        )
    if minutes <= 0:
        raise ValueError(f"minutes={minutes} makes no speech: give a number above 0.")
    if speakers < len(languages):
        raise ValueError(f"{speakers} speakers cannot speak {len(languages)} languages: give at least one for each.")


def _draw_speakers(languages: Sequence[str], speakers: int, generator: np.random.Generator) -> list[_Speaker]:
    """Speakers who take the languages in turn and differ in voice, pitch, pace, level and room."""
    variants = {language: generator.permutation(_VARIANTS) for language in languages}
    drawn = []
    for index in range(speakers):
        language = languages[index % len(languages)]
        accents = LANGUAGES[language].accents
        turn = index // len(languages)
        drawn.append(
            _Speaker(
                name=f"{language}-{turn:03d}",
                language=language,
                voice=f"{accents[turn % len(accents)]}+{variants[language][turn % len(_VARIANTS)]}",
                pitch=int(generator.integers(35, 66)),
                words_per_minute=int(generator.integers(140, 201)),
                speech_level=generator.uniform(-30, -20),
                noise_level=generator.uniform(-70, -55),
            )
        )
    return drawn


def _utterance(espeak: Espeak, speaker: _Speaker, generator: np.random.Generator, vocabulary: str) -> dict:
    """One row without its id: sentences joined by pauses until a drawn length is reached."""
    texts = []
    pieces = [_pause(generator)]
    num_samples = len(pieces[0].waveform)
    shortest, longest = SECONDS[vocabulary]
    wanted = generator.uniform(shortest, 0.8 * longest) * SAMPLE_RATE
    while num_samples < wanted:
        text = VOCABULARIES[vocabulary](speaker.language, generator)
        added = [_say(espeak, speaker, text), _pause(generator)]
        num_added = sum(len(piece.waveform) for piece in added)
        if texts and num_samples + num_added > longest * SAMPLE_RATE:
            break
        texts.append(text)
        pieces += added
        num_samples += num_added

    waveform = _record(np.concatenate([piece.waveform for piece in pieces]), speaker, generator)
    flac = io.BytesIO()
    soundfile.write(flac, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return {
        "audio": {"bytes": flac.getvalue()},
        "duration": num_samples / SAMPLE_RATE,
        "text": " ".join(texts),
        "speaker": speaker.name,
        "language": speaker.language,
        "phones": _phones(segment for piece in pieces for segment in piece.segments),
    }


def _pause(generator: np.random.Generator) -> _Piece:
    num_samples = int(generator.uniform(0.1, 0.4) * SAMPLE_RATE)
    return _Piece(np.zeros(num_samples, np.float32), [("", num_samples)])


def _say(espeak: Espeak, speaker: _Speaker, text: str) -> _Piece:
    """A sentence at 16 kHz, with its phones."""
    spoken, events = espeak.say(
        text, voice=speaker.voice, pitch=speaker.pitch, words_per_minute=speaker.words_per_minute
    )
    waveform = read_audio({"array": np.frombuffer(spoken, np.int16), "sampling_rate": ESPEAK_SAMPLE_RATE})
    names = ["", *(name.translate(_TO_PHONES) for name, _ in events)]
    starts = [min(round(start * SAMPLE_RATE / ESPEAK_SAMPLE_RATE), len(waveform)) for _, start in events]
    starts = _with_closures(waveform, [0, *starts])
    lengths = np.diff([*starts, len(waveform)]).tolist()
    return _Piece(waveform, [segment for segment in zip(names, lengths, strict=True) if segment[1] > 0])


def _with_closures(waveform: np.ndarray, starts: list[int]) -> list[int]:
    """Starts of phones, moved to the front of the silence before them.

    espeak-ng marks a stop where it bursts; the closed mouth before it is heard as part of the stop.
    """
    sounding = np.abs(waveform) > 0.005 * np.abs(waveform).max()
    moved = [starts[0]]
    for before, start in pairwise(starts):
        heard = np.flatnonzero(sounding[before:start])
        moved.append(before + int(heard[-1]) + 1 if len(heard) else start)
    return moved


def _record(waveform: np.ndarray, speaker: _Speaker, generator: np.random.Generator) -> np.ndarray:
    """The speech at the speaker's level, peaks below full scale, over the noise of the room."""
    loudness = np.sqrt(np.mean(waveform**2))
    gain = min(_amplitude(speaker.speech_level) / loudness, 0.9 / np.abs(waveform).max())
    noise = generator.standard_normal(len(waveform), dtype=np.float32) * _amplitude(speaker.noise_level)
    return waveform * float(gain) + noise


def _amplitude(decibels: float) -> float:
    return 10 ** (decibels / 20)


def _phones(segments: Iterable[tuple[str, int]]) -> list[dict]:
    """Phones with their times in seconds; nameless segments in a row become one pause, or part of the phone before."""
    joined: list[tuple[str, int]] = []
    for name, num_samples in segments:
        if name == "" and joined and joined[-1][0] == "":
            num_samples += joined.pop()[1]
        joined.append((name, num_samples))

    phones = []
    end = 0
    for name, num_samples in joined:
        start, end = end, end + num_samples
        if name == "" and num_samples < MIN_PAUSE_SECONDS * SAMPLE_RATE:
            phones[-1]["end"] = end / SAMPLE_RATE
        else:
            phones.append({"phone": name or SILENCE, "start": start / SAMPLE_RATE, "end": end / SAMPLE_RATE})
    return phones
