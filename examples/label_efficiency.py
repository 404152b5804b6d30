"""Error rates against minutes of labels: several starts, amounts of labels and seeds, all with the same updates.

    accelerate launch examples/label_efficiency.py examples/configs/label_efficiency_digits.yaml \\
        --starts scratch hubert=runs/hubert-tiny        (CPU, hours)

The YAML may hold any argument; the command line takes precedence. `hf-ssl-speech label-efficiency` runs the same code,
and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "label-efficiency")

if __name__ == "__main__":
    start("label-efficiency")
