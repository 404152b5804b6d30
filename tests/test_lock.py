"""A second start in a folder in which another process works is refused by name, whichever script it is."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ssl_speech import SpeechPreTrainingArguments
from hf_ssl_speech.recipes import hubert_iterations
from hf_ssl_speech.training.lock import LOCK_FILE, hold

EXAMPLES = Path(__file__).parents[1] / "examples"
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 1 on another desk")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder in which another process works."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_FILE)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    yield str(tmp_path)
    holder.kill()
    holder.wait()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("make_units", ["--train_data", "nowhere", "--output_dir", "FOLDER"]),
        ("evaluate_asr", ["--models", "nowhere", "--data", "nowhere", "--output_dir", "FOLDER"]),
        ("tune_decoder", ["--model", "nowhere", "--data", "nowhere", "--output_dir", "FOLDER"]),
        ("align", ["--model", "nowhere", "--data", "nowhere", "--output_dir", "FOLDER"]),
        ("make_speech", ["FOLDER"]),
    ],
)
def test_a_script_is_refused_a_folder_in_which_another_process_works(name, arguments, held):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(ValueError, match=r"is using .* \(process 1 on another desk\)"):
        script.main([held if argument == "FOLDER" else argument for argument in arguments])


def test_the_iterations_of_hubert_are_refused_it_too(held):
    class Checked(hubert_iterations.HubertIterations):
        def __init__(self):
            self.folder, self.args = Path(held), SpeechPreTrainingArguments(output_dir=held, use_cpu=True)

        def preflight(self):
            pass

    with pytest.raises(ValueError, match=r"is using .* \(process 1 on another desk\)"):
        Checked().run()


def test_a_folder_that_can_not_be_made_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"Nothing can be written to .*use another output_dir"):
        hold(tmp_path / "file" / "run")
