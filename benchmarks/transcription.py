"""Transcription beside transformers' pipeline, with the same weights: seconds of CPU time for a second of audio.

    python benchmarks/transcription.py --output_file docs/measured/transcription.json
    python benchmarks/transcription.py --sizes tiny --rounds 1

Rows are noise of 2 to 16 seconds in random order. The models have random weights, and the likeliest token of each frame
makes the text on both sides. The pipeline takes the rows one by one, and in batches in the order that they come in. The
logits of each row alone are compared before the clock starts; how many characters differ is told, since stock group
norm lets padding change the frames of a batch. CPU time of one thread.
"""

import string

import numpy as np
import torch
from labelling import make_rows
from measuring import arguments, machine, side_by_side, write_results
from transformers import Wav2Vec2Processor, pipeline

from hf_ssl_speech import SSLWav2Vec2Config, SSLWav2Vec2ForCTC, make_processor, transcribe
from hf_ssl_speech.allocation import keep_memory
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.hub.exchange import to_transformers
from hf_ssl_speech.recognition.metrics import count_edits
from hf_ssl_speech.recognition.transcription import compute_logits

ROWS = {"tiny": 24, "small": 8, "base": 3}
LONGEST, BATCH_ROWS = 16, 4
LARGEST_DIFFERENCE = 1e-3


def compare(model: SSLWav2Vec2ForCTC, stock: torch.nn.Module, processor: Wav2Vec2Processor, rows: list[dict]) -> float:
    """The largest difference of the logits of a row, ours in batches, theirs alone."""
    differences = []
    for places, logits, frames in compute_logits(model, processor, rows):
        for place, ours, number in zip(places, logits, frames):
            inputs = processor(row_waveform(rows[place]), sampling_rate=SAMPLE_RATE, return_tensors="pt")
            with torch.no_grad():
                theirs = stock(inputs.input_values).logits[0]
            differences.append(float((ours[: int(number)] - theirs).abs().max()))
    return max(differences)


def measure(size: str, rows: list[dict], rounds: int) -> dict:
    processor = make_processor([string.ascii_lowercase])
    torch.manual_seed(0)
    config = SSLWav2Vec2Config.preset(size, vocab_size=len(processor.tokenizer), pad_token_id=0)
    model = SSLWav2Vec2ForCTC(config).eval()
    stock = to_transformers(model).eval()
    difference = compare(model, stock, processor, rows)
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"The logits differ by {difference:.1e}.")
    listen = pipeline(
        "automatic-speech-recognition",
        model=stock,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )

    def ours() -> list[str]:
        return [each.text for each in transcribe(model, processor, rows)]

    def theirs(batch_size: int) -> list[str]:
        waveforms = [np.asarray(row_waveform(row)) for row in rows]
        return [each["text"].strip() for each in listen(waveforms, batch_size=batch_size)]

    variants = {
        "ours": ours,
        "pipeline in batches": lambda: theirs(BATCH_ROWS),
        "pipeline row by row": lambda: theirs(1),
    }
    heard = ours()
    edits = {name: count_edits(variants[name](), heard, "characters") for name in variants if name != "ours"}
    differing = {name: float(each.errors.sum() / each.reference_length.sum()) for name, each in edits.items()}
    seconds = sum(row["num_samples"] for row in rows) / SAMPLE_RATE
    facts = {"audio_seconds": seconds, "largest_difference": difference, "differing_characters": differing}
    return side_by_side(size, variants, rounds, 0, **facts)


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv, __doc__, 3, sizes=dict(nargs="+", default=list(ROWS), choices=list(ROWS), help="sizes of the encoder")
    )
    keep_memory()  # as `hf-ssl-speech` does, for both sides
    longest = LONGEST
    if args.quick:
        args.rounds, args.sizes, longest = 1, ["tiny"], 2
    rows = make_rows(4 if args.quick else max(ROWS.values()), longest)
    settings = {"longest_seconds": longest, "batch_rows": BATCH_ROWS}
    cases = []
    for size in args.sizes:
        cases.append(measure(size, rows[: ROWS[size]], args.rounds))
        found = {"machine": machine("transformers"), "settings": settings, "cases": cases}
        write_results(args.output_file, found)


if __name__ == "__main__":
    main()
