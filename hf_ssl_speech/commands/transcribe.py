"""Transcribes audio files or folders. Each line of the output is: name, tab, text.

    hf-ssl-speech transcribe runs/ctc one.wav two.mp3 my_recordings > transcripts.tsv

The recogniser is a folder or an id on the Hub with a CTC head, ours or stock. Recordings of more than a minute are cut
at pauses. Audio that can't be read is named on standard error. For language models and scores, see `evaluate`.
"""

from __future__ import annotations

import sys

from hf_ssl_speech.commands.command_parser import CommandParser, path_type

PIECE_SECONDS = 30


def main(argv: list[str]):
    """Loads, listens and prints."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("model", type=path_type, help="Folder or Hub id of a recogniser with a CTC head.")
    parser.add_argument(
        "audio", nargs="+", type=path_type, help="Files, folders, or any other form of data that training takes."
    )
    parser.add_argument("--split", default="train", help="Split of the data, if it has several (default: train).")
    parser.add_argument("--language", help="Spoken language, for a model like MMS.")
    args = parser.parse_args(argv)
    from hf_ssl_speech.data.preparing import prepare_speech
    from hf_ssl_speech.data.sources import load_speech
    from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe

    model, processor = load_recognizer(args.model, language=args.language)
    rows, report = prepare_speech(load_speech(args.audio, split=args.split), min_seconds=0, max_seconds=PIECE_SECONDS)
    if report.num_skipped:
        print(report, file=sys.stderr)
    for name, transcript in zip(rows["name"], transcribe(model, processor, rows)):
        print(f"{name}\t{transcript.text}")
