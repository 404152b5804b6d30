"""What the README tells people to do works."""

import re
from pathlib import Path

import pytest

from hf_ssl_speech import SSLWav2Vec2Config, SSLWav2Vec2ForPreTraining

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_code_of_the_readme_runs(tmp_path, capsys):
    SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config.preset("tiny")).save_pretrained(tmp_path / "demo")
    for block in BLOCKS:
        exec(compile(block.replace("runs/demo", str(tmp_path / "demo")), "README.md", "exec"), {})
    assert "torch.Size([1, 49, 192])" in capsys.readouterr().out
    assert (tmp_path / "demo-stock" / "config.json").exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_what_the_readme_links_to_is_there(path):
    assert (ROOT / path).exists()


def test_the_two_commands_of_the_readme_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
