"""What is pushed to the Hub, here its stand-in, comes back as it was; and what goes wrong is told in words."""

import json
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
import yaml
from datasets import Dataset
from hub_folders import VOCABULARY, make_ctc, make_encoder, make_processor, make_units, score
from hub_server import HubStandIn
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from transformers import AutoModelForCTC

from hf_ssl_speech import (
    KMeansUnits,
    SSLHubertForCTC,
    SSLHubertModel,
    SSLWav2Vec2ForPreTraining,
    SSLWav2Vec2Model,
    create_model_card,
    push_to_hub,
)
from hf_ssl_speech.data.data_facts import SkipReport, split_facts
from hf_ssl_speech.data.features import HiddenFeatures
from hf_ssl_speech.hub.publishing import PushFailed

ROWS = Dataset.from_dict({"name": ["a"], "num_samples": [16_000]})
TOKEN, READ_TOKEN, EXPIRED = "hf_" + "A" * 34, "hf_" + "R" * 34, "hf_" + "E" * 34


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, which the client takes for the Hub; `me` is logged in."""
    constants = huggingface_hub.constants
    with HubStandIn() as hub:
        hub.tokens = {TOKEN: ("me", True), READ_TOKEN: ("me", False)}
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        # transformers keeps one client, made with the address that held when it was first needed.
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def contents():
    """`contents(folder)`: every file of a folder."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


def test_what_is_pushed_is_what_loads_in_a_fresh_process(hub, tmp_path, make_tiny):
    encoder, ctc = make_encoder(tmp_path / "encoder"), make_ctc(tmp_path / "ctc", scores=[])
    source = HiddenFeatures.from_pretrained(encoder, 2, device="cpu")
    units = make_units(tmp_path / "units", source)
    push_to_hub(encoder, "encoder")
    push_to_hub(encoder, "encoder-stock", stock=True)
    push_to_hub(ctc, "me/ctc", private=True)
    push_to_hub(ctc, "me/ctc-stock", stock=True)
    push_to_hub(units, "me/units", encoder="me/encoder")
    make_processor(tmp_path / "processor").push_to_hub("me/processor")
    make_tiny(SSLHubertModel).push_to_hub("me/bare")
    KMeansUnits.from_pretrained(units).push_to_hub("me/bare-units", encoder="me/encoder")

    script = Path(__file__).with_name("load_from_hub.py")
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, script, tmp_path / "found.npz"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert TOKEN not in run.stdout + run.stderr
    found = np.load(tmp_path / "found.npz")

    waveform = torch.from_numpy(found["waveform"])[None]
    with torch.no_grad():
        frames = SSLWav2Vec2Model.from_pretrained(encoder)(waveform).last_hidden_state.numpy()
        logits = AutoModelForCTC.from_pretrained(ctc)(waveform).logits.numpy()
    assert np.array_equal(found["encoder"], frames)
    assert np.array_equal(found["encoder_stock"], frames)
    assert np.array_equal(found["ctc"], logits)
    assert np.array_equal(found["ctc_stock"], logits)
    assert np.array_equal(found["centroids"], KMeansUnits.from_pretrained(units).centroids)
    assert np.array_equal(found["bare_centroids"], found["centroids"])
    assert json.loads(str(found["vocabulary"])) == VOCABULARY
    assert "torch.Size([1, 49, 32])" in run.stdout, "the code of the encoder's card did not run"


def test_only_what_others_need_is_pushed_and_nothing_here_changes_but_the_card(hub, tmp_path, contents):
    folder = make_encoder(tmp_path / "encoder")
    (folder / "decoder.json").write_text('{"language_model": "/home/me/lm.arpa"}')
    before = contents(folder)
    pushed = push_to_hub(folder, "me/encoder", license="apache-2.0", language="en")
    needed = {"config.json", "model.safetensors", "modeling_hf_ssl_speech.py", "preprocessor_config.json", "run.json"}
    assert set(hub.repositories["me/encoder"].files) == set(pushed.files) == needed | {"training.png", "README.md"}
    after = contents(folder)
    assert after.pop("README.md") == hub.repositories["me/encoder"].files["README.md"]
    assert after == before
    assert pushed.repository == f"{hub.url}/me/encoder"
    assert pushed.commit.startswith(f"{hub.url}/me/encoder/commit/")


def test_error_rates_on_benchmarks_are_pushed_in_the_form_of_their_leaderboards(hub, tmp_path):
    folder = make_ctc(tmp_path / "ctc", scores=[score(), score(decoder={"kind": "greedy"})])
    push_to_hub(folder, "me/ctc", benchmarks={"openslr/librispeech_asr": "clean"})
    files = hub.repositories["me/ctc"].files
    assert {"scores.json", "vocab.json", "text_normalization.json"} <= set(files)
    pushed = [yaml.safe_load(files[f".eval_results/librispeech_asr-{number}.yaml"]) for number in (1, 2)]
    first, second = (parse_eval_result_entries(each)[0] for each in pushed)
    assert (first.dataset_id, first.task_id, first.value) == ("openslr/librispeech_asr", "clean", 12.35)
    assert "beam" in first.notes
    assert "greedy" in second.notes
    with pytest.raises(ValueError, match=r"no evaluation on me/other: evaluate the model on it first"):
        push_to_hub(folder, "me/ctc", benchmarks={"me/other": "clean"})


def test_a_card_of_ones_own_words_is_pushed_as_it_is(hub, tmp_path):
    folder = make_encoder(tmp_path / "encoder")
    push_to_hub(folder, "me/encoder")
    made = (folder / "README.md").read_text()
    push_to_hub(folder, "me/encoder", license="mit")
    assert ModelCard.load(folder / "README.md").data.license == "mit", "a card that was made is made anew"
    mine = "---\nlicense: other\n---\n" + "\n".join(line for line in made.splitlines()[10:] if "<!--" not in line)
    (folder / "README.md").write_text(mine)
    for stock in (False, True):
        push_to_hub(folder, "me/encoder", stock=stock)
        assert hub.repositories["me/encoder"].files["README.md"].decode() == mine


def test_an_upload_that_breaks_off_in_the_middle_is_taken_up_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.drop_uploads = 1
    folder = make_units(tmp_path / "units")
    push_to_hub(folder, "me/units")
    assert hub.count("PUT", "/lfs/") == 2
    sent = hub.repositories["me/units"].files["kmeans.safetensors"]
    assert sent == (folder / "kmeans.safetensors").read_bytes()


def test_a_push_that_failed_is_finished_by_the_same_command_without_sending_weights_again(hub, tmp_path, contents):
    folder = make_encoder(tmp_path / "encoder")
    hub.fail_commits = 1
    with pytest.raises(PushFailed, match=r"status 500.*Nothing in .* was lost.*not sent again") as failure:
        push_to_hub(folder, "me/encoder")
    assert "README.md" not in hub.repositories["me/encoder"].files
    before, puts = contents(folder), hub.count("PUT", "/lfs/")
    assert puts == 2  # weights and picture
    push_to_hub(folder, "me/encoder")
    assert hub.count("PUT", "/lfs/") == puts
    assert contents(folder) == before
    assert hub.repositories["me/encoder"].files["model.safetensors"] == before["model.safetensors"]
    assert_hidden(failure.value, TOKEN)


@pytest.mark.parametrize(
    ("token", "owner", "words"),
    [
        (EXPIRED, "me", "refused the access token: it has expired or was revoked.*hf auth login"),
        (READ_TOKEN, "me", "may not write to me/encoder.*settings/tokens"),
        (TOKEN, "you", "may not write to you/encoder"),
    ],
)
def test_a_token_that_is_refused_is_told_in_words_and_never_shown(
    hub, tmp_path, monkeypatch, contents, capfd, caplog, token, owner, words
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", token)
    folder = make_encoder(tmp_path / "encoder")
    before = contents(folder)
    with pytest.raises(PushFailed, match=words) as failure:
        push_to_hub(folder, f"{owner}/encoder")
    assert contents(folder) == before
    assert not hub.repositories
    shown = capfd.readouterr()
    assert_hidden(failure.value, token, caplog.text, shown.out, shown.err)


def test_without_a_token_one_is_told_to_log_in(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PushFailed, match="hf auth login"):
        push_to_hub(make_units(tmp_path / "units"), "me/units")


def test_a_hub_that_cannot_be_reached_is_told_in_words(hub, tmp_path, contents):
    folder = make_units(tmp_path / "units")
    before = contents(folder)
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(PushFailed, match=f"{hub.url} could not be reached.*HF_ENDPOINT.*Nothing in .* was lost"):
        push_to_hub(folder, "me/units")
    assert contents(folder) == before


def test_private_repositories_are_private_and_public_ones_are_never_taken_for_them(hub, tmp_path, monkeypatch):
    folder = make_units(tmp_path / "units")
    push_to_hub(folder, "me/hidden", private=True)
    assert HfApi(token=TOKEN).repo_info("me/hidden").private
    hub.tokens[EXPIRED] = ("somebody", True)
    for stranger in (False, EXPIRED):
        with pytest.raises(OSError, match="me/hidden"):
            KMeansUnits.from_pretrained("me/hidden", token=stranger, cache_dir=tmp_path / "strange")
    push_to_hub(folder, "me/open")
    with pytest.raises(ValueError, match="me/open already exists and is public"):
        push_to_hub(folder, "me/open", private=True)


def test_what_is_not_fit_to_be_pushed_is_refused_before_the_hub_is_asked(hub, tmp_path):
    running = make_encoder(tmp_path / "running", status="running", updates=12)
    with pytest.raises(ValueError, match=r"is running, at update 12.*let it finish"):
        push_to_hub(running, "me/encoder")
    without = make_encoder(tmp_path / "without")
    (without / "model.safetensors").unlink()
    (without / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks model.safetensors or .*, preprocessor_config.json or"):
        push_to_hub(without, "me/encoder")
    with pytest.raises(ValueError, match=r"neither config.json nor kmeans.json"):
        push_to_hub(tmp_path, "me/encoder")
    units = make_units(tmp_path / "units")
    with pytest.raises(ValueError, match="no form of its own"):
        push_to_hub(units, "me/units", stock=True)
    with pytest.raises(ValueError, match="en-US: the Hub takes languages"):
        push_to_hub(units, "me/units", language="en-US")
    source = HiddenFeatures.from_pretrained(make_encoder(tmp_path / "encoder"), 1, device="cpu")
    with pytest.raises(ValueError, match="push that encoder first, and name its repository"):
        push_to_hub(make_units(tmp_path / "hidden-units", source), "me/units")
    told = make_encoder(tmp_path / "told", command=f"examples/pretrain.py --hub_token {READ_TOKEN}")
    with pytest.raises(ValueError, match=r"run.json holds an access token") as refusal:
        push_to_hub(told, "me/encoder")
    assert_hidden(refusal.value, READ_TOKEN)
    assert not hub.requests


def test_the_script_pushes_and_tells_where_to(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import push_to_hub as script

    folder = make_units(tmp_path / "units")
    script.main([str(folder), "me/units", "--card"])
    assert "8 discrete units" in capsys.readouterr().out
    assert not hub.requests
    script.main([str(folder), "units", "--license", "mit", "--datasets", "openslr/librispeech_asr=cc-by-4.0", "mine"])
    shown = capsys.readouterr().out
    assert f"{hub.url}/me/units" in shown
    assert TOKEN not in shown
    card = ModelCard(hub.repositories["me/units"].files["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.datasets == ["openslr/librispeech_asr"]
    assert "| mine | not stated |" in card.text


def assert_hidden(error: BaseException, token: str, *outputs: str):
    """The token is in no output, and in no line of the error and of those that led to it."""
    shown = "".join(traceback.format_exception(error)) + "".join(outputs)
    assert token not in shown


def test_what_is_pushed_names_no_folder_of_this_machine(hub, tmp_path):
    here = str(tmp_path / "data" / "mini")
    folder = make_ctc(tmp_path / "ctc", scores=[score(command=f"x.py --data {here}")], command=f"x.py {here}")
    before = (folder / "run.json").read_text()
    push_to_hub(folder, "me/ctc")
    files = hub.repositories["me/ctc"].files
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    assert json.loads(files["run.json"])["command"] == "x.py …/mini"
    assert (folder / "run.json").read_text() == before


def test_what_an_earlier_push_left_goes_and_what_others_put_there_stays(hub, tmp_path):
    folder = make_ctc(tmp_path / "ctc", scores=[score()])
    push_to_hub(folder, "me/ctc", benchmarks={"openslr/librispeech_asr": "clean"})
    files = hub.repositories["me/ctc"].files
    theirs = {"thanks.md": b"!", "onnx/model.onnx": b"0", "adapter.safetensors": b"1", "kmeans.json": b"{}"}
    files.update(theirs)
    model = SSLHubertForCTC.from_pretrained(folder)
    torch.nn.init.constant_(model.lm_head.bias, 7.0)
    (folder / "model.safetensors").unlink()
    (folder / "scores.json").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    commits = len(hub.repositories["me/ctc"].commits)
    pushed = push_to_hub(folder, "me/ctc")
    assert set(pushed.removed) == {"model.safetensors", "scores.json", ".eval_results/librispeech_asr-1.yaml"}
    assert set(files) == {*pushed.files, *theirs}
    assert len(hub.repositories["me/ctc"].commits) == commits + 1
    loaded = SSLHubertForCTC.from_pretrained("me/ctc")
    assert loaded.lm_head.bias[0] == 7.0
    for path in folder.glob("model-*"):
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    model.save_pretrained(folder)
    push_to_hub(folder, "me/ctc", stock=True)
    assert not [name for name in files if name.startswith("model-") or name.endswith("index.json")]


def test_weights_that_somebody_else_pushed_never_win_over_ours_and_their_other_files_stay(hub, tmp_path, make_tiny):
    make_tiny(SSLHubertModel).push_to_hub("me/model")
    files = hub.repositories["me/model"].files
    files |= {"vocab.json": b"{}", "scores.json": b"[]"}
    folder = make_encoder(tmp_path / "encoder")
    weights = (folder / "model.safetensors").read_bytes()
    model = SSLWav2Vec2ForPreTraining.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    pushed = push_to_hub(folder, "me/model")
    assert pushed.removed == ("model.safetensors",)
    assert files["vocab.json"] == b"{}" and weights not in files.values()


def test_a_card_that_was_edited_on_the_hub_is_kept_or_named_and_its_metadata_holds(hub, tmp_path, caplog):
    folder = make_encoder(tmp_path / "encoder")
    push_to_hub(folder, "me/encoder", license="mit", language=["en"], datasets={"me/data": "mit"})
    files = hub.repositories["me/encoder"].files
    card = ModelCard(files["README.md"].decode())
    card.data.tags.append("whales")
    card.data.license_link = "LICENSE"
    files["README.md"] = str(card).encode()
    push_to_hub(folder, "me/encoder")  # only the metadata was edited: the text is made anew
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.language, card.data.datasets) == ("mit", ["en"], ["me/data"])
    assert "whales" in card.data.tags and card.data.license_link == "LICENSE"
    assert "Licence of the model: mit" in card.text
    push_to_hub(folder, "me/encoder", license="apache-2.0")
    assert ModelCard(files["README.md"].decode()).data.license == "apache-2.0"

    files["README.md"] += b"\nDo not use it for birds.\n"
    for stock in (False, True):
        with pytest.raises(ValueError, match=r"README.md of me/encoder was edited on the Hub.*replace_card"):
            push_to_hub(folder, "me/encoder", stock=stock)
    assert b"birds" in files["README.md"]
    words = "\n".join(line for line in files["README.md"].decode().splitlines() if "<!-- Made by" not in line)
    files["README.md"] = words.encode()
    (folder / "README.md").unlink()
    push_to_hub(folder, "me/encoder", language="de")
    kept = ModelCard(files["README.md"].decode())
    assert "birds" in kept.text and kept.data.language == ["de"] and kept.data.license == "apache-2.0"
    assert "is in somebody's own words, and stays" in caplog.text
    push_to_hub(folder, "me/encoder", replace_card=True)
    assert b"birds" not in files["README.md"]


def test_a_model_beside_whose_files_units_lie_is_pushed_as_the_model(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = make_ctc(tmp_path / "ctc", scores=[])
    record = (folder / "run.json").read_bytes()
    make_units(folder)
    (folder / "run.json").write_bytes(record)
    pushed = push_to_hub(folder, "me/ctc")
    card = ModelCard(hub.repositories["me/ctc"].files["README.md"].decode())
    assert card.data.pipeline_tag == "automatic-speech-recognition" and "discrete units" not in card.text
    assert "is a CTC model, and the unit set that lies beside it" in caplog.text
    assert {"kmeans.json", "kmeans.safetensors"} <= set(pushed.files)
    stock = push_to_hub(folder, "me/ctc-stock", stock=True)
    assert not {"kmeans.json", "kmeans.safetensors"} & set(stock.files)
    with pytest.raises(ValueError, match="me/ctc holds a model"):
        push_to_hub(make_units(tmp_path / "units"), "me/ctc")
    before = set(hub.repositories["me/ctc"].files)
    KMeansUnits.from_pretrained(tmp_path / "units").push_to_hub("me/ctc")
    assert set(hub.repositories["me/ctc"].files) == before


def test_bare_units_take_the_same_way_to_the_hub(hub, tmp_path):
    units = KMeansUnits.from_pretrained(make_units(tmp_path / "units"))
    units.push_to_hub("me/d")
    with pytest.raises(ValueError, match="me/d already exists and is public"):
        units.push_to_hub("me/d", private=True)
    assert len(hub.repositories["me/d"].commits) == 2
    units.push_to_hub("me/e", private=True, commit_message="Units", revision="main")
    assert hub.repositories["me/e"].private
    units.push_to_hub("me/e", revision="draft")
    assert set(hub.repositories["me/e"].branches["draft"]) == {"kmeans.json", "kmeans.safetensors"}
    with pytest.raises(PushFailed, match="may not write to you/d"):
        units.push_to_hub("you/d")


def test_units_of_an_encoder_that_nobody_else_has_are_refused_on_every_way(hub, tmp_path):
    source = HiddenFeatures.from_pretrained(make_encoder(tmp_path / "encoder"), 1, device="cpu")
    folder = make_ctc(tmp_path / "ctc")
    units = KMeansUnits.from_pretrained(make_units(folder, source))
    for push in (units.push_to_hub, lambda *names, **options: push_to_hub(folder, *names, **options)):
        with pytest.raises(ValueError, match=r"made of .*encoder, which nobody else has.* name its repository"):
            push("me/units")
        assert not hub.repositories.pop("me/units", None)
        push("me/units", encoder="me/encoder")
        facts = hub.repositories.pop("me/units").files["kmeans.json"].decode()
        assert json.loads(facts)["features"]["encoder"] == "me/encoder" and str(tmp_path) not in facts
    assert "kmeans.json" not in push_to_hub(folder, "me/stock", stock=True).files


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, "Private repository storage limit reached"), "storage limit reached.*Make room"),
        ((429, "Rate limit"), "Rate limit.*wait"),
        ((413, "Too large"), "Too large.*Make room"),
        ((503, "Down for maintenance"), "maintenance.*try again later"),
        ((403, "Write access is forbidden for this role"), "may not write to me/units"),
        ((400, "Invalid metadata in README.md"), "Invalid metadata"),
    ],
)
def test_what_the_hub_refuses_is_told_in_its_own_words(hub, tmp_path, monkeypatch, answer, words):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.refuse_commits = answer
    with pytest.raises(PushFailed, match=words) as failure:
        push_to_hub(make_units(tmp_path / "units"), "me/units")
    assert ("access token" in str(failure.value)) == ("role" in answer[1])


def test_what_nobody_meant_to_publish_stays_here_and_is_named_before(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = make_units(tmp_path / "units")
    for name in ("books.txt", "notes.md", "secret.png", "other.safetensors", "settings.json"):
        (folder / name).write_text("mine")
    hub.refuse_commits = (500, "no")
    with pytest.raises(PushFailed):
        push_to_hub(folder, "me/units")
    assert "To me/units go: README.md, kmeans.json, kmeans.safetensors, run.json." in caplog.text
    assert "These stay here: books.txt, notes.md, other.safetensors, secret.png, settings.json." in caplog.text
    hub.refuse_commits = None
    pushed = push_to_hub(folder, "me/units", commit_message="Mine", revision="main")
    assert set(pushed.files) == set(hub.repositories["me/units"].files)
    assert not {"books.txt", "notes.md", "secret.png"} & set(pushed.files)


def test_what_was_read_from_disk_is_never_named_as_an_id(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_encoder(tmp_path / "runs" / "demo")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").mkdir()
    source = HiddenFeatures.from_pretrained("runs/demo", 2, device="cpu")
    units = make_units(tmp_path / "units", source)
    facts = [split_facts(each, ROWS, SkipReport(1)) for each in ("data/digits", ["data/digits"], "me/digits")]
    old = score()["data"] | {"source": "data/digits.parquet"}
    scores = [score(data=score()["data"] | fact) for fact in facts] + [score(data=old)]
    ctc = make_ctc(tmp_path / "ctc", scores=scores)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="which nobody else has"):
        push_to_hub(units, "me/units")
    results = create_model_card(ctc, datasets=["speech/mine.csv"]).data
    assert results.datasets is None
    types = [each.dataset_type for each in results.eval_results]
    assert "/" not in "".join(types[:4] + types[6:]) and types[4] == "me/digits"


def test_a_bare_model_pushed_in_shards_is_what_loads_and_is_private_where_asked(hub, make_tiny):
    model = make_tiny(SSLHubertForCTC, vocab_size=6)
    model.push_to_hub("me/bare")
    torch.nn.init.constant_(model.lm_head.bias, 7.0)
    address = model.push_to_hub("me/bare", max_shard_size="50KB", tags=["birds"])
    files = hub.repositories["me/bare"].files
    assert "model.safetensors" not in files and "model.safetensors.index.json" in files
    assert SSLHubertForCTC.from_pretrained("me/bare").lm_head.bias[0] == 7.0
    assert address.startswith(f"{hub.url}/me/bare/commit/") and b"birds" in files["README.md"]
    with pytest.raises(ValueError, match="me/bare already exists and is public"):
        model.push_to_hub("me/bare", private=True)
    model.push_to_hub("me/secret", private=True)
    assert hub.repositories["me/secret"].private
    with pytest.raises(PushFailed, match="may not write to you/bare"):
        model.push_to_hub("you/bare", private=True)


def test_results_that_others_put_on_leaderboards_stay_and_ours_go(hub, tmp_path):
    folder = make_ctc(tmp_path / "ctc", scores=[score()])
    push_to_hub(folder, "me/ctc", benchmarks={"openslr/librispeech_asr": "clean"})
    files = hub.repositories["me/ctc"].files
    files[".eval_results/common-voice-17.yaml"] = b"- dataset:\n    id: fsicoli/common_voice_17_0\n  value: 3.0\n"
    pushed = push_to_hub(folder, "me/ctc")
    assert pushed.removed == (".eval_results/librispeech_asr-1.yaml",)
    assert ".eval_results/common-voice-17.yaml" in files


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ("license: [mit, apache-2.0]", ["mit", "apache-2.0"]),
        ("license: licence-of-next-year", "licence-of-next-year"),
        ("license: mit\nlanguage: no", "mit"),
        ("license: mit\nlanguage: [no, en]", "mit"),
    ],
)
def test_whatever_metadata_the_hub_has_taken_holds(hub, tmp_path, there, kept):
    folder = make_units(tmp_path / "units")
    push_to_hub(folder, "me/units")
    files = hub.repositories["me/units"].files
    files["README.md"] = files["README.md"].replace(b"---\n", f"---\n{there}\n".encode(), 1)
    push_to_hub(folder, "me/units")
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == kept
    assert card.data.language == {"no": ["no"], "[no, en]": ["no", "en"]}.get(there.partition("language: ")[2])
    assert f"Licence of the model: {kept if isinstance(kept, str) else 'mit, apache-2.0'}" in card.text
    with pytest.raises(ValueError, match="'licence-of-next-year': the Hub takes licences"):
        create_model_card(folder, license=["mit", "licence-of-next-year"])


def test_ones_own_words_go_up_with_the_licence_that_is_given_or_stated_on_the_hub(hub, tmp_path):
    folder = make_units(tmp_path / "units")
    push_to_hub(folder, "me/units", license="mit", language="en")
    files = hub.repositories["me/units"].files
    mine = "---\ntags: [birds]\n---\nMy words.\n"
    (folder / "README.md").write_text(mine)
    for given, licence in (({}, "mit"), ({"license": "apache-2.0"}, "apache-2.0"), ({}, "apache-2.0")):
        push_to_hub(folder, "me/units", **given)
        card = ModelCard(files["README.md"].decode())
        assert (card.data.license, card.data.language, card.data.tags) == (licence, ["en"], ["birds"])
        assert card.text.strip() == "My words." and card.data.library_name is None
    assert (folder / "README.md").read_text() == mine
    push_to_hub(folder, "me/units", replace_card=True)
    assert ModelCard(files["README.md"].decode()).data.license == "apache-2.0"
    (folder / "README.md").write_bytes("\ufeff---\r\nlicense: gpl\r\n---\r\nFrom Windows.\r\n".encode())
    push_to_hub(folder, "me/units", replace_card=True)
    assert ModelCard(files["README.md"].decode()).data.license == "gpl"
    files["README.md"] = b"---\nlicense: [mit\n---\nBroken."
    with pytest.raises(ValueError, match=r"metadata on top of README.md of me/units can't be read"):
        push_to_hub(folder, "me/units")


def test_a_pull_request_leaves_the_repository_as_it_is(hub, tmp_path):
    folder = make_units(tmp_path / "units")
    push_to_hub(folder, "me/units", license="mit")
    before = dict(hub.repositories["me/units"].files)
    assert push_to_hub(folder, "me/units", license="gpl", create_pr=True).commit == f"{hub.url}/me/units/discussions/1"
    units = KMeansUnits.from_pretrained(folder)
    units.facts["seed"] = 4
    assert units.push_to_hub("me/units", create_pr=True).endswith("/discussions/1")
    assert hub.repositories["me/units"].files == before
    with pytest.raises(PushFailed, match="not found"):
        push_to_hub(folder, "me/nowhere", create_pr=True)
    assert "me/nowhere" not in hub.repositories
