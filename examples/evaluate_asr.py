"""Scores speech recognisers side by side, on the same audio and with the same normalisation of texts.

    python examples/evaluate_asr.py --models runs/ctc openai/whisper-tiny.en facebook/wav2vec2-base-960h \\
        --data librispeech/test --by speaker --output_dir runs/evaluation

`hf-ssl-speech evaluate` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "evaluate")

if __name__ == "__main__":
    start("evaluate")
