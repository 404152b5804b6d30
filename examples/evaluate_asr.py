"""Scores speech recognisers side by side, on the same audio and with the same normalisation of texts.

    python examples/evaluate_asr.py --models runs/ctc openai/whisper-tiny.en facebook/wav2vec2-base-960h \\
        --data librispeech/test --by speaker --output_dir runs/evaluation

Any checkpoint that transformers knows will do: CTC models, ours or stock, and Whisper and its like. Runs on a CPU too;
`--limit 20` gives a first look. Prints word and character error rates with their intervals, speed, and the worst
utterances; writes them to `report.md`, `scores.png` and `scores.json`, and, unless it was a first look, each local
model's scores into its folder, for its card.

The command `hf-ssl-speech evaluate` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "evaluate")

if __name__ == "__main__":
    start("evaluate")
