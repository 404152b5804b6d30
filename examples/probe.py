"""Measures what frozen encoders know: speakers, languages, keywords, phones, or any other column of the data.

    python examples/probe.py --encoders mine=runs/hubert --label_column speaker --train_data SPEECH \\
        --output_dir runs/probes

`hf-ssl-speech probe` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "probe")

if __name__ == "__main__":
    start("probe")
