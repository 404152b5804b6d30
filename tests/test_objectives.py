"""The losses: the papers' formulas written naively, stock wav2vec 2.0, and torchaudio's HuBERT."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchaudio
from torch import nn

from hf_ssl_speech import SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.hub.exchange import from_torchaudio, to_transformers
from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.conv_encoder import feature_penalty_per_row
from hf_ssl_speech.models.pretraining import hide_labels
from hf_ssl_speech.models.quantizer import gumbel_noise

EXACT = 1e-10  # in float64, where what is exact differs by rounding alone: 1e-16 on every processor
IN_FLOAT32 = 1e-4  # where all is in float64 but the loss, or a part of it, of those that are compared with
VALID = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def masks_and_negatives(num_frames: list[int], num_negatives: int) -> dict[str, torch.Tensor]:
    """What the collator gives: some masked frames of each row, other masked frames of the row as negatives."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randperm(frames, generator=generator)[: frames // 2].sort().values for frames in num_frames]
    width = max(map(len, rows))
    positions = torch.full((len(rows), width), -1)
    negatives = torch.zeros(len(rows), width, num_negatives, dtype=torch.long)
    mask = torch.zeros(len(rows), max(num_frames), dtype=torch.bool)
    for row, masked in enumerate(rows):
        count = len(masked)
        positions[row, :count] = masked
        mask[row, masked] = True
        offsets = torch.randint(1, count, (count, num_negatives), generator=generator)
        negatives[row, :count] = (torch.arange(count)[:, None] + offsets) % count
    labels = torch.where(mask, 0, -100)
    return dict(mask_time_indices=mask, masked_positions=positions, sampled_negative_indices=negatives, labels=labels)


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first @ second / (first.norm() * second.norm())).item()


def assert_same_gradients(ours: nn.Module, theirs: dict[str, torch.Tensor], relative: float = EXACT):
    """Every weight's gradient agrees, relative to its largest entry, or to a hundredth of the model's largest: some
    gradients (that of the keys' bias) are zero but for rounding."""
    mine = {name: weight.grad for name, weight in ours.named_parameters()}
    assert mine.keys() == theirs.keys()
    floor = max(gradient.abs().max() for gradient in theirs.values()) / 100
    assert floor > 0
    for name, gradient in theirs.items():
        assert (mine[name] - gradient).abs().max() <= relative * max(gradient.abs().max(), floor), name


# ---- each loss, by the formula ----


def test_contrastive_loss_is_equation_3_and_a_negative_with_the_code_of_the_positive_is_none():
    predictions, targets = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    codes = torch.randint(2, (2, 6, 2))
    negatives = torch.randint(4, (2, 6, 5))
    logits = objectives.contrastive_logits(predictions, targets, negatives, codes, temperature=0.1)
    loss = objectives.contrastive_loss(logits, VALID)

    naive, excluded = 0.0, 0
    for row, frame in VALID.nonzero().tolist():
        true = math.exp(cosine(predictions[row, frame], targets[row, frame]) / 0.1)
        total = true
        for negative in negatives[row, frame].tolist():
            if codes[row, negative].equal(codes[row, frame]):
                excluded += 1
            else:
                total += math.exp(cosine(predictions[row, frame], targets[row, negative]) / 0.1)
        naive -= math.log(true / total)
    assert 0 < excluded < 50
    assert loss.item() == pytest.approx(naive, rel=1e-5)


def test_the_true_frame_is_picked_where_it_beats_every_negative():
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [3.0, -torch.inf, -torch.inf]])
    assert objectives.picks_the_true_frame(logits[None]).tolist() == [[True, False, False, False]]


def test_a_collapsed_codebook_has_accuracy_zero_and_no_contrastive_loss():
    vectors = torch.randn(1, 6, 8)
    codes = torch.zeros(1, 6, 2, dtype=torch.long)
    logits = objectives.contrastive_logits(vectors, vectors, torch.randint(6, (1, 6, 5)), codes, 0.1)
    assert not objectives.picks_the_true_frame(logits).any()
    assert not objectives.chance_of_the_true_frame(logits).any()
    assert objectives.contrastive_loss(logits, torch.ones(1, 6, dtype=torch.bool)) == 0


def test_chance_counts_the_negatives_that_are_left():
    codes = torch.tensor([[[0], [0], [1], [2]]])
    vectors, negatives = torch.randn(1, 4, 8), torch.tensor([[[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]])
    logits = objectives.contrastive_logits(vectors, vectors, negatives, codes, 0.1)
    assert objectives.chance_of_the_true_frame(logits)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 4, 1 / 4])


def test_diversity_loss_is_equation_4_over_masked_frames_only():
    probabilities = torch.randn(2, 6, 3, 7).softmax(-1)
    naive = 0.0
    for group in range(3):
        average = sum(probabilities[row, frame, group] for row, frame in VALID.nonzero().tolist()) / 10
        entropy = -sum(p * math.log(p) for p in average.tolist())
        naive += (7 - math.exp(entropy)) / 7 / 3
    assert objectives.diversity_loss(probabilities, VALID).item() == pytest.approx(naive, rel=1e-5)


def test_diversity_loss_is_zero_for_even_use_and_near_one_for_collapse():
    collapsed = F.one_hot(torch.zeros(2, 6, 2, dtype=torch.long), 320).float()
    assert objectives.diversity_loss(collapsed, VALID).item() == pytest.approx(1 - 1 / 320)
    even = torch.full((2, 6, 2, 320), 1 / 320, dtype=torch.float64)
    assert objectives.diversity_loss(even, VALID).item() == pytest.approx(0, abs=EXACT)


def test_perplexity_counts_the_entries_in_use():
    distributions = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert objectives.perplexity(distributions).tolist() == pytest.approx([1, 2, 4])


def test_feature_penalty_is_the_mean_square_over_real_frames():
    frames = torch.randn(2, 6, 8)
    naive = [sum(frames[row, frame].square().mean().item() for frame in range(n)) / n for row, n in enumerate((6, 4))]
    assert feature_penalty_per_row(frames, VALID).tolist() == pytest.approx(naive, rel=1e-5)
    assert feature_penalty_per_row(frames[:1], None).tolist() == pytest.approx(naive[:1], rel=1e-5)


def test_unit_prediction_is_equation_3_of_hubert_summed_over_labelled_frames():
    projections, units = torch.randn(2, 6, 8), torch.randn(5, 8)
    labels = torch.randint(5, (2, 6)).masked_fill(~VALID, -100)
    loss = objectives.unit_prediction_loss(objectives.unit_logits(projections, units, 0.1), labels)
    naive = 0.0
    for row, frame in VALID.nonzero().tolist():
        scores = [math.exp(cosine(projections[row, frame], unit) / 0.1) for unit in units]
        naive -= math.log(scores[labels[row, frame]] / sum(scores))
    assert loss.item() == pytest.approx(naive, rel=1e-5)


def test_the_losses_stay_in_float32_under_autocast():
    frames, codes = torch.randn(1, 6, 8), torch.arange(12).view(1, 6, 2)
    negatives = torch.randint(6, (1, 6, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contrastive = objectives.contrastive_logits(frames.bfloat16(), frames, negatives, codes, 0.1)
        units = objectives.unit_logits(frames.bfloat16(), torch.randn(5, 8), 0.1)
    assert contrastive.dtype == units.dtype == torch.float32
    exact = objectives.contrastive_logits(frames.bfloat16().float(), frames, negatives, codes, 0.1)
    assert torch.equal(contrastive, exact)


def test_float64_is_never_cast_down(tiny_wav2vec2):
    frames, codes = torch.randn(1, 6, 16).double(), torch.arange(12).view(1, 6, 2)
    results = [
        objectives.contrastive_logits(frames, frames, torch.randint(6, (1, 6, 5)), codes, 0.1),
        objectives.unit_logits(frames, torch.randn(5, 16).double(), 0.1),
        feature_penalty_per_row(frames, None),
        gumbel_noise(frames, torch.arange(1)),
        tiny_wav2vec2.double().quantizer(frames).probabilities,
        tiny_wav2vec2.base_model(torch.randn(1, 16_000)).last_hidden_state,  # waveforms come in float32
    ]
    assert {result.dtype for result in results} == {torch.float64}


# ---- wav2vec 2.0 against stock ----


def stock_loss_and_gradients(stock, waveforms, batch, attention_mask=None):
    """Stock counts frames over the whole batch, masked or not; ours over each row's masked frames."""
    mask, positions, negatives = (
        batch[name] for name in ("mask_time_indices", "masked_positions", "sampled_negative_indices")
    )
    flat = torch.zeros(*mask.shape, negatives.shape[-1], dtype=torch.long)
    for row, frame in (positions >= 0).nonzero().tolist():
        flat[row, positions[row, frame]] = row * mask.shape[1] + positions[row, negatives[row, frame]]
    output = stock(waveforms, attention_mask, mask_time_indices=mask, sampled_negative_indices=flat)
    output.loss.backward()
    return output, {name: weight.grad for name, weight in stock.named_parameters()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_wav2vec2_has_the_loss_and_gradients_of_stock(training, padded, architecture, make_tiny, monkeypatch):
    if padded:  # which stock lets into a group norm's statistics
        architecture = architecture | dict(feat_extract_norm="layer")
    # Out of training stock's codebook loss is that of hard choices, a number without gradient: left out there.
    fields = dict(feature_penalty_weight=0.0, feature_gradient_scale=1.0, diversity_loss_weight=0.1 * training)
    ours = make_tiny(SSLWav2Vec2ForPreTraining, **fields, **architecture).train(training)
    ours, stock = ours.double(), to_transformers(ours).double()
    ours.set_update(200_000)
    stock.set_gumbel_temperature(ours.quantizer.temperature.item())
    lengths = [8_000, 6_000 if padded else 8_000]
    attention_mask = (torch.arange(8_000) < torch.tensor(lengths)[:, None]).long() if padded else None
    waveforms = torch.randn(2, 8_000).double() * (1 if attention_mask is None else attention_mask)
    batch = masks_and_negatives([ours.num_frames(length) for length in lengths], num_negatives=5)
    positions, seeds = batch["masked_positions"], torch.tensor([5, 6])
    valid = positions >= 0

    def same_noise(logits, tau, hard):
        noise = torch.zeros(2, 24, 2, 8, dtype=torch.float64)
        rows = valid.nonzero()[:, 0]
        noise[rows, positions[valid]] = gumbel_noise(noise.new_empty(*positions.shape, 2, 8), seeds)[valid]
        soft = ((logits + noise.view_as(logits)) / tau).softmax(-1)
        return F.one_hot(soft.argmax(-1), 8) - soft.detach() + soft

    monkeypatch.setattr(nn.functional, "gumbel_softmax", same_noise)
    theirs, gradients = stock_loss_and_gradients(stock, waveforms, batch, attention_mask)
    mine = ours(waveforms, attention_mask, **batch, gumbel_seeds=seeds, num_items_in_batch=1)
    mine.loss.backward()
    assert mine.loss.item() == pytest.approx(theirs.loss.item(), rel=IN_FLOAT32)
    assert mine.statistics["contrastive"].item() == pytest.approx(theirs.contrastive_loss.item(), rel=IN_FLOAT32)
    if training:
        assert mine.statistics["diversity"].item() == pytest.approx(theirs.diversity_loss.item(), rel=IN_FLOAT32)
        perplexities = ours.metrics(mine.statistics)
        assert perplexities["soft_perplexity_1"] + perplexities["soft_perplexity_2"] == pytest.approx(
            theirs.codevector_perplexity.item(), rel=IN_FLOAT32
        )
    else:
        gradients = {
            name: torch.zeros_like(ours.get_parameter(name)) if g is None else g for name, g in gradients.items()
        }
    assert_same_gradients(ours, gradients, relative=IN_FLOAT32)


def test_wav2vec2_adds_up_its_three_losses_per_masked_frame(tiny_wav2vec2):
    model = tiny_wav2vec2
    batch = masks_and_negatives([24, 24], num_negatives=5)
    output = model(torch.randn(2, 8_000), **batch)
    metrics = model.metrics(output.statistics)
    expected = metrics["contrastive_loss"] + 0.1 * metrics["diversity_loss"] + 10 * metrics["feature_penalty"]
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["masked_share"] == 0.5
    assert 1 <= metrics["hard_perplexity_1"] <= 8


def test_the_loss_is_a_sum_divided_by_the_items_of_the_whole_update(tiny_wav2vec2):
    waveforms, batch = torch.randn(2, 8_000), masks_and_negatives([24, 24], num_negatives=5)
    mean = tiny_wav2vec2(waveforms, **batch).loss
    part = tiny_wav2vec2(waveforms, **batch, num_items_in_batch=1_000).loss
    assert part.item() == pytest.approx(mean.item() * 24 / 1_000, rel=1e-6)


def test_the_codebook_learns_through_targets_and_negatives(tiny_wav2vec2):
    model = tiny_wav2vec2.train()
    model.config.diversity_loss_weight = 0.0
    batch = masks_and_negatives([24, 24], num_negatives=5)
    model(torch.randn(2, 8_000), **batch, gumbel_seeds=torch.tensor([1, 2])).loss.backward()
    for weight in (model.quantizer.codevectors, model.quantizer.weight_proj.weight, model.project_q.weight):
        assert weight.grad.abs().sum() > 0


def test_missing_inputs_of_the_objective_are_named(tiny_wav2vec2):
    batch = masks_and_negatives([24], num_negatives=5)
    waveforms = torch.randn(1, 8_000)
    with pytest.raises(ValueError, match="sampled_negative_indices"):
        tiny_wav2vec2(waveforms, masked_positions=batch["masked_positions"], labels=batch["labels"])
    with pytest.raises(ValueError, match="masked_positions"):
        tiny_wav2vec2(waveforms, labels=batch["labels"])


# ---- HuBERT against torchaudio ----


class GivenMask(nn.Module):
    """Stands where torchaudio draws its own masks."""

    def __init__(self, mask_embedding: nn.Parameter, mask: torch.Tensor):
        super().__init__()
        self.mask_embedding, self.mask = mask_embedding, mask

    def forward(self, frames, padding_mask):
        return torch.where(self.mask[..., None], self.mask_embedding, frames), self.mask


def torchaudio_hubert(sizes: dict) -> torchaudio.models.HuBERTPretrainModel:
    masking = dict(mask_prob=0.8, mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False)
    masking |= dict(mask_min_space=1, mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0)
    masking |= dict(mask_channel_length=10, no_mask_channel_overlap=False, mask_channel_min_space=1)
    head = dict(skip_masked=False, skip_nomask=False, num_classes=11, final_dim=12, feature_grad_mult=0.1)
    return torchaudio.models.hubert_pretrain_model(**sizes, **masking, **head)


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_hubert_has_the_loss_and_gradients_of_torchaudio(unmasked_weight, torchaudio_sizes, randomize):
    theirs = randomize(torchaudio_hubert(torchaudio_sizes)).train()
    ours, theirs = from_torchaudio(theirs).double().train(), theirs.double()
    ours.config.unmasked_loss_weight = unmasked_weight
    assert type(ours) is SSLHubertForPreTraining and ours.config.feature_gradient_scale == 0.1
    waveforms = torch.randn(2, 8_000, dtype=torch.float64)
    batch = masks_and_negatives([24, 24], num_negatives=1)
    mask, positions = batch["mask_time_indices"], batch["masked_positions"]
    units = torch.randint(11, (2, 24))

    theirs.mask_generator = GivenMask(theirs.mask_generator.mask_embedding, mask)
    masked_logits, unmasked_logits, penalty = theirs(waveforms, units)
    masked, unmasked = (
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
        for logits in (masked_logits, unmasked_logits)
    )
    predicted = len(masked_logits) + bool(unmasked_weight) * len(unmasked_logits)
    loss = masked + unmasked_weight * unmasked + 10 * predicted * penalty
    loss.backward()

    labels = units if unmasked_weight else units.masked_fill(~mask, -100)
    mine = ours(waveforms, mask_time_indices=mask, masked_positions=positions, labels=labels, num_items_in_batch=1)
    mine.loss.backward()
    assert mine.loss.item() == pytest.approx(loss.item(), rel=IN_FLOAT32)
    assert mine.statistics["masked_correct"] == (masked_logits[:, :1] >= masked_logits[:, 1:]).all(1).sum()
    for weight in theirs.parameters():
        weight.data = weight.grad
    # Their gradients under our names.
    assert_same_gradients(ours, from_torchaudio(theirs).state_dict(), relative=IN_FLOAT32)


def unit_batch(unit_sets: int) -> dict[str, torch.Tensor]:
    batch = masks_and_negatives([24, 20], num_negatives=1)
    units = torch.stack([torch.randint(10, (2, 24)) for _ in range(unit_sets)], dim=-1).squeeze(-1)
    units[1, 20:] = -100
    attention_mask = (torch.arange(8_000) < torch.tensor([8_000, 6_500])[:, None]).long()
    return dict(
        input_values=torch.randn(2, 8_000) * attention_mask,
        attention_mask=attention_mask,
        mask_time_indices=batch["mask_time_indices"],
        masked_positions=batch["masked_positions"],
        labels=units,
    )


@pytest.mark.parametrize("unit_sets", [1, 2])
@pytest.mark.parametrize("unmasked_weight", [0.0, 0.7])
@torch.no_grad()
def test_hubert_divides_by_predicted_frames_and_the_penalty_keeps_its_weight(unmasked_weight, unit_sets, make_tiny):
    """As in fairseq: the losses of all sets add up, and frames count once, whatever is predicted in them."""
    sizes = [10, 12][:unit_sets]
    model = make_tiny(SSLHubertForPreTraining, num_units=sizes, unmasked_loss_weight=unmasked_weight)
    batch = unit_batch(unit_sets)
    mask = batch["mask_time_indices"]
    if not unmasked_weight:
        batch["labels"][~mask] = -100
    items = (batch["labels"] != -100).sum()  # as Trainer counts them
    output = model(**batch, num_items_in_batch=items)

    labels = batch["labels"].reshape(2, 24, unit_sets)
    prediction = 0.0
    for index in range(unit_sets):
        masked, unmasked = (labels[..., index].masked_fill(hidden, -100) for hidden in (~mask, mask))
        prediction += naive_unit_loss(model, output.last_hidden_state, masked, index)
        if unmasked_weight:
            prediction += unmasked_weight * naive_unit_loss(model, output.last_hidden_state, unmasked, index)
    frames = [24, 20] if unmasked_weight else mask.sum(1).tolist()
    features = model.base_model(batch["input_values"], batch["attention_mask"]).conv_features
    penalties = [features[0].square().mean().item(), features[1, :20].square().mean().item()]
    penalty = sum(weight * each for weight, each in zip(frames, penalties)) / sum(frames)
    assert output.loss.item() == pytest.approx(prediction / sum(frames) + 10 * penalty, rel=1e-5)
    assert model(**batch).loss.item() == pytest.approx(output.loss.item(), rel=1e-6)
    metrics = model.metrics(output.statistics)
    assert metrics["loss"] == pytest.approx(output.loss.item(), rel=1e-6)
    assert metrics["feature_penalty"] == pytest.approx(penalty, rel=1e-5)

    micro_batches = [{name: value[row : row + 1] for name, value in batch.items()} for row in (0, 1)]
    parts = [model(**each, num_items_in_batch=items).loss.item() for each in micro_batches]
    assert sum(parts) == pytest.approx(output.loss.item(), rel=1e-5)


def naive_unit_loss(model, hidden, labels, unit_set: int) -> float:
    total = 0.0
    for row, frame in (labels != -100).nonzero().tolist():
        projected = model.to_unit_space[unit_set](hidden[row, frame])
        similarities = torch.stack(
            [F.cosine_similarity(projected, unit, 0) for unit in model.unit_embeddings[unit_set].weight]
        )
        total -= (similarities / 0.1).log_softmax(0)[labels[row, frame]].item()
    return total


@torch.no_grad()
def test_the_weight_of_unmasked_frames_adds_their_loss(make_tiny):
    model = make_tiny(SSLHubertForPreTraining, unmasked_loss_weight=0.7, feature_penalty_weight=0.0)
    batch = unit_batch(1)
    output = model(**batch, num_items_in_batch=1)
    mask, labels = batch["mask_time_indices"], batch["labels"]
    masked = naive_unit_loss(model, output.last_hidden_state, labels.masked_fill(~mask, -100), 0)
    unmasked = naive_unit_loss(model, output.last_hidden_state, labels.masked_fill(mask, -100), 0)
    assert output.loss.item() == pytest.approx(masked + 0.7 * unmasked, rel=1e-5)
    assert output.statistics["masked_units"] + output.statistics["unmasked_units"] == 24 + 20
    assert model.metrics(output.statistics)["unmasked_loss"] == pytest.approx(unmasked / 22, rel=1e-5)


def test_without_that_weight_unmasked_frames_are_never_projected(tiny_hubert):
    projected = []
    tiny_hubert.to_unit_space[0].register_forward_hook(lambda module, inputs, output: projected.append(output.shape))
    output = tiny_hubert(**unit_batch(1))
    assert projected == [(2, 12, 12)]
    assert not any("unmasked" in name for name in output.statistics)


@torch.no_grad()
def test_several_unit_sets_add_up_each_with_its_own_projection_and_embeddings(make_tiny):
    model = make_tiny(SSLHubertForPreTraining, num_units=[10, 12], feature_penalty_weight=0.0)
    batch = unit_batch(2)
    output = model(**batch, num_items_in_batch=2)  # one frame's labels
    labels = batch["labels"].masked_fill(~batch["mask_time_indices"][..., None], -100)
    naive = [naive_unit_loss(model, output.last_hidden_state, labels[..., index], index) for index in (0, 1)]
    assert output.loss.item() == pytest.approx(sum(naive), rel=1e-5)
    with pytest.raises(ValueError, match=r"1 unit sets; config\.num_units names 2"):
        model(**{**batch, "labels": labels[..., 0]})


def test_labels_of_masked_frames_are_hidden_from_the_unmasked_loss():
    labels = torch.arange(10).view(1, 5, 2)
    hidden = hide_labels(labels, torch.tensor([[0, 4, -1]]))
    assert hidden.tolist() == [[[-100, -100], [2, 3], [4, 5], [6, 7], [-100, -100]]]


@pytest.mark.parametrize("model_class", [SSLWav2Vec2ForPreTraining, SSLHubertForPreTraining])
def test_a_batch_gives_the_gradient_of_its_rows_alone(model_class, architecture, make_tiny):
    """Padding never leaks into a loss; what the diversity of a batch is, its rows can't say, so that is left out."""
    fields = dict(diversity_loss_weight=0.0) if model_class is SSLWav2Vec2ForPreTraining else {}
    model = make_tiny(model_class, **fields, **architecture).double().train()
    lengths = torch.tensor([8_000, 6_500])
    frames = model.num_frames(lengths).tolist()
    attention_mask = (torch.arange(8_000) < lengths[:, None]).long()
    batch = masks_and_negatives(frames, num_negatives=5)
    batch |= dict(input_values=torch.randn(2, 8_000) * attention_mask, attention_mask=attention_mask)
    if model_class is SSLWav2Vec2ForPreTraining:
        batch["gumbel_seeds"] = torch.tensor([7, 8])
    else:
        del batch["sampled_negative_indices"]
        batch["labels"] = batch["labels"] + torch.where(batch["mask_time_indices"], torch.randint(10, (2, 24)), 0)
    items = (batch["labels"] != -100).sum()

    model(**batch, num_items_in_batch=items).loss.backward()
    together = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    for row in (0, 1):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        samples, masked = int(lengths[row]), int((batch["masked_positions"][row] >= 0).sum())
        for name in ("input_values", "attention_mask"):
            alone[name] = alone[name][:, :samples]
        for name in ("labels", "mask_time_indices"):
            alone[name] = alone[name][:, : frames[row]]
        for name in {"masked_positions", "sampled_negative_indices"} & alone.keys():
            alone[name] = alone[name][:, :masked]
        model(**alone, num_items_in_batch=items).loss.backward()
    assert_same_gradients(model, together)
