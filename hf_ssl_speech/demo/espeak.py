"""Text to speech with espeak-ng: samples, and the exact time of every phone.

The library carries state from one utterance to the next, so it runs in a process of its own: every `Espeak` starts
from the same state and says the same things with the same samples, and the caller's process stays clean.
This file is also that process' program; it then sees the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

ESPEAK_SAMPLE_RATE = 22_050


class Espeak:
    """One espeak-ng in a process of its own, which runs until `close`.

    Raises:
        ImportError: If `espeakng-loader`, which brings the library and its voices, is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError("Synthetic speech needs espeakng-loader: pip install espeakng-loader") from error
        # Isolated (-I): this file's folder stays off the module path, where its neighbours could hide a library.
        paths = [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
        command = [sys.executable, "-I", __file__, *paths]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def say(
        self, text: str, *, voice: str, pitch: int = 50, words_per_minute: int = 175
    ) -> tuple[bytes, list[tuple[str, int]]]:
        """Speak a text.

        Args:
            text: What to say.
            voice: espeak-ng's name of a voice, with a variant if wanted: `"en-us+f2"`.
            pitch: From 0 to 99; 50 is the voice's own.
            words_per_minute: From 80 to 450.
        Returns:
            The samples, 16-bit integers at `ESPEAK_SAMPLE_RATE`, and each phone's name (IPA, an empty one for pauses
            and glides) with the sample at which it starts.
        Raises:
            RuntimeError: If espeak-ng has no such voice or has stopped.
        """
        request = {"text": text, "voice": voice, "pitch": pitch, "words_per_minute": words_per_minute}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise RuntimeError(f"espeak-ng stopped with exit status {self._process.wait()} before saying {text!r}.")
        answer = json.loads(answer)
        if answer["status"] != 0:
            raise RuntimeError(f"espeak-ng could not say {text!r} in the voice {voice!r} (status {answer['status']}).")
        return self._process.stdout.read(answer["num_bytes"]), [(name, start) for name, start in answer["phones"]]


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng's speak_lib.h, its union read as the name that phoneme events carry."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_LAST_EVENT, _PHONEME_EVENT = 0, 7
_SYNCHRONOUS_OUTPUT = 2
_PHONEME_EVENTS, _NAMES_IN_IPA, _RETURN_ON_ERROR = 1 << 0, 1 << 1, 1 << 15
_RATE, _PITCH = 1, 3
_TEXT_IS_UTF8 = 1
_OnSamples = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


def _serve(library_path: str, data_path: str) -> None:
    """Answer each line of standard input, a request, with a line about the samples and then the samples."""
    library = ctypes.CDLL(library_path)
    samples = bytearray()
    phones = []

    @_OnSamples
    def keep(first_sample: int | None, num_samples: int, events: ctypes.Array) -> int:
        if num_samples > 0:
            samples.extend(ctypes.string_at(first_sample, 2 * num_samples))
        index = 0
        while events[index].type != _LAST_EVENT:
            if events[index].type == _PHONEME_EVENT:
                # A name is cut at 8 bytes, perhaps inside a letter.
                phones.append((events[index].name.decode(errors="ignore"), events[index].sample))
            index += 1
        return 0

    options = _PHONEME_EVENTS | _NAMES_IN_IPA | _RETURN_ON_ERROR
    rate = library.espeak_Initialize(_SYNCHRONOUS_OUTPUT, 0, data_path.encode(), options)
    if rate != ESPEAK_SAMPLE_RATE:
        sys.exit(f"espeak-ng speaks at {rate} Hz from {data_path}; {ESPEAK_SAMPLE_RATE} was expected.")
    library.espeak_SetSynthCallback(keep)
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))

    for line in sys.stdin:
        request = json.loads(line)
        samples.clear()
        phones.clear()
        text = request["text"].encode() + b"\0"
        status = library.espeak_SetVoiceByName(request["voice"].encode())
        if status == 0:
            library.espeak_SetParameter(_RATE, request["words_per_minute"], 0)
            library.espeak_SetParameter(_PITCH, request["pitch"], 0)
            status = library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, _TEXT_IS_UTF8, None, None)
        answer = {"status": status, "num_bytes": len(samples), "phones": phones}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + (samples if status == 0 else b""))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
