"""What pretraining buys: encoders kept along one run, fine-tuned, probed and clustered, against hours of audio seen.

    python examples/payoff.py examples/configs/label_efficiency_librispeech.yaml \\
        --starts scratch runs/hubert/hours-* runs/hubert        (CPU, a night)

Started again, the script goes on where it stopped. `results.json`, `report.md` with the table, and `payoff.png` are
then in the output folder; `docs/label_efficiency.md` tells more.

The command `hf-ssl-speech payoff` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "payoff")

if __name__ == "__main__":
    start("payoff")
